"""Stage `benchmark`, first half: what capturing costs over a plain forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ghostkv.files import provenance
from ghostkv.files.io import read_table
from ghostkv.files.tables import write_rows
from ghostkv.models.tokenizer import token_ids_of

# Sampled queries per token in the default capture, so that the proof weighs what it weighs there.
_QUERY_SHARE = 160 / 4096


def capture_overhead(
    model_folder: str, texts_table: str, params: Mapping[str, Any], output: str, threads: int = 1
) -> None:
    """Time capture against a plain forward pass of the same model on the same text.

    Parameters
    ----------
    model_folder : str
        Folder of a fetched model.
    texts_table : str
        `texts.parquet`; its first text is used.
    params : mapping
        `tokens` and `repeats` (pairs) of config section `benchmark`, `dtype` of section `model`, `code`.
    output : str
        Parquet with a row a pair (`ghostkv.models.overhead.OVERHEAD_SCHEMA`). The figure to quote is the
        median of `ratio`.
    threads : int
        torch threads, for both sides.

    Raises
    ------
    ModelError, TextError
    """
    from ghostkv.models.load import load_model, load_tokenizer
    from ghostkv.models.overhead import OVERHEAD_SCHEMA, time_pairs

    tokens = params["tokens"]
    row = read_table(texts_table).row(0, named=True)
    token_ids = token_ids_of(load_tokenizer(model_folder), row["content"], tokens, row["text"])
    model = load_model(model_folder, params.get("dtype", "float32"), threads)
    count = max(int(tokens * _QUERY_SHARE), 1)
    positions = np.linspace(tokens // 16, tokens - 1, count).astype(np.int32)
    folder = Path(output).parent
    folder.mkdir(parents=True, exist_ok=True)
    rows = time_pairs(model, token_ids, positions, params["repeats"], folder)
    write_rows(rows, output, OVERHEAD_SCHEMA, provenance.metadata(params.get("code"), text=row["text"]))
