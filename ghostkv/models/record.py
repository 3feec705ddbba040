"""One text through the model, its attention to a capture folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ghostkv.captures.proven_writer import ProvenWriter, folder_of
from ghostkv.files import provenance
from ghostkv.files.errors import ModelError
from ghostkv.models.capture import record_attention
from ghostkv.models.load import load_model, load_tokenizer
from ghostkv.models.tokenizer import token_ids_of


def record_text(
    model_folder: str,
    row: Mapping[str, Any],
    positions: np.ndarray,
    params: Mapping[str, Any],
    outputs: Mapping[str, str],
    threads: int,
) -> None:
    """Run the model over a row of `texts.parquet` and write its attention at `positions`; see `ghostkv.stages.capture.text`."""
    text, tokens, manifest = row["text"], params["tokens"], _manifest(model_folder)
    token_ids = token_ids_of(load_tokenizer(model_folder), row["content"], tokens, text)
    model = load_model(model_folder, params.get("dtype", "float32"), threads)
    layers = None if params["layers"] == "all" else params["layers"]
    metadata = provenance.metadata(params.get("code")) | {
        "model": manifest["model"],
        "weight_sha256": manifest["weight_sha256"],
        "text": text,
        "text_sha256": row["sha256"],
        "domain": row["domain"],
        "role": row["role"],
        "cache_dtype": params.get("cache_dtype", "float16"),
    }
    with ProvenWriter(folder_of(outputs), metadata, params["tolerance"]) as writer:
        record_attention(model, token_ids, positions, writer.append, layers, metadata["cache_dtype"])


def _manifest(model_folder: str) -> dict[str, Any]:
    path = Path(model_folder) / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: no readable manifest ({error}), so what was captured could not be named.\n  Rerun the "
            "model rule"
        ) from error
