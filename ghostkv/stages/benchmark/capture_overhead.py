"""Stage `benchmark`, first half: what capturing costs over a plain forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.files import provenance
from ghostkv.files.tables import write_rows
from ghostkv.models.tokenizer import load_tokenizer, token_ids_of
from ghostkv.sources.texts import read_texts
from ghostkv.stages.benchmark.schemas import OVERHEAD_SCHEMA

if TYPE_CHECKING:
    from ghostkv.stages.benchmark.jobs import CaptureOverhead

# Sampled queries per token in the default capture, so that the proof weighs what it weighs there.
_QUERY_SHARE = 160 / 4096


def capture_overhead(
    job: CaptureOverhead, inputs: Mapping[str, str], outputs: Mapping[str, str], threads: int = 1
) -> None:
    """Time capture against a plain forward pass of the same model on the first text, both with so many torch threads.

    The table has a row a pair; the figure to quote is the median of `ratio`.
    """
    from ghostkv.models.load import load_model
    from ghostkv.models.overhead import time_pairs

    tokens, output = job.tokens, outputs["capture_overhead"]
    model_folder = str(Path(inputs["manifest"]).parent)
    row = read_texts(inputs["texts"]).row(0, named=True)
    token_ids = token_ids_of(load_tokenizer(model_folder), row["content"], tokens, row["text"])
    model = load_model(model_folder, job.dtype, threads, job.device)
    count = max(int(tokens * _QUERY_SHARE), 1)
    positions = np.linspace(tokens // 16, tokens - 1, count).astype(np.int32)
    folder = Path(output).parent
    folder.mkdir(parents=True, exist_ok=True)
    rows = time_pairs(model, token_ids, positions, job.repeats, folder, job.chunk)
    write_rows(rows, output, OVERHEAD_SCHEMA, provenance.metadata(job.code, text=row["text"]))
