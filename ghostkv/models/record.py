"""One text through the model, its attention to a capture folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.proven_writer import ProvenWriter
from ghostkv.files import provenance
from ghostkv.files.progress import progress
from ghostkv.models.capture import record_attention
from ghostkv.models.devices import described
from ghostkv.models.load import load_model
from ghostkv.models.manifest import read_manifest
from ghostkv.models.tokenizer import load_tokenizer, token_ids_of
from ghostkv.sources.texts import text_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ghostkv.captures.capture_files import LayerCapture
    from ghostkv.captures.recording import Recording


def record_text(
    job: Recording,
    positions: np.ndarray,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    threads: int,
) -> None:
    """Run the model over a text and write its attention at `positions`; see `ghostkv.stages.capture.text`."""
    model_folder, row = str(Path(inputs["manifest"]).parent), text_row(inputs["texts"], job.text)
    manifest = read_manifest(model_folder)
    token_ids = token_ids_of(load_tokenizer(model_folder), row["content"], job.tokens, job.text)
    model = _loaded(model_folder, job.dtype, threads, job.device)
    metadata = provenance.metadata(job.code) | {
        "model": manifest["model"],
        "weight_sha256": manifest["weight_sha256"],
        "text": job.text,
        "text_sha256": row["sha256"],
        "domain": row["domain"],
        "role": row["role"],
        "cache_dtype": job.cache_dtype,
        "dtype": job.dtype,
        "device": described(model.device),
    }
    with (
        ProvenWriter(Path(outputs["kv"]).parent, metadata, job.tolerance) as writer,
        progress(total=len(job.layers), desc=job.text, unit="layer") as bar,
    ):

        def keep(capture: LayerCapture, proof: dict[str, float]) -> None:
            writer.append(capture, proof)
            bar.update()

        record_attention(model, token_ids, positions, keep, job.layers, job.cache_dtype, job.chunk)


@lru_cache(maxsize=1)
def _loaded(folder: str, dtype: str, threads: int, device: str) -> PreTrainedModel:
    """The model, once for all texts that a process records."""
    return load_model(folder, dtype, threads, device)
