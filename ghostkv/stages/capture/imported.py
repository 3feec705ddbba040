"""A capture from tensors that a lab already has."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.captures.positions import sample_positions
from ghostkv.captures.proven_writer import ProvenWriter
from ghostkv.files import provenance
from ghostkv.files.errors import CaptureError
from ghostkv.files.io import sha256_file
from ghostkv.stages.capture.tensor_import import layers_in, load_layer

if TYPE_CHECKING:
    from ghostkv.stages.capture.jobs import ImportTensors


def import_tensors(job: ImportTensors, inputs: Mapping[str, object], outputs: Mapping[str, str]) -> None:
    """Turn a folder of captured tensors into a capture.

    Raises CaptureError where a tensor is malformed, too short, or a layer is missing; the message names the file and
    key.
    """
    text, folder = job.text, Path(outputs["kv"]).parent
    found = layers_in(job.folder)
    positions = sample_positions(job.query_bands, text, job.seed)
    metadata = provenance.metadata(job.code) | {
        "model": f"imported from {Path(job.folder).name}",
        "weight_sha256": "",
        "text": text,
        "text_sha256": _sha256_of_files(found),
        "domain": job.domain,
        "role": job.role,
        "cache_dtype": "float16",
    }
    with ProvenWriter(folder, metadata, tolerance=None) as writer:
        for layer in sorted(job.layers):
            tensors = load_layer(found, layer)
            if tensors.keys.shape[1] < job.tokens:
                raise CaptureError(
                    f"{found[layer][0].path}: has {tensors.keys.shape[1]} tokens, fewer than capture.tokens: "
                    f"{job.tokens}.\n"
                    f"  Write: tokens: {tensors.keys.shape[1]}   and query_bands within it, under capture"
                )
            writer.append(*tensors.first(job.tokens).capture(positions, job.scale))


def _sha256_of_files(found: Mapping[int, Any]) -> str:
    paths = sorted({part.path for parts in found.values() for part in parts})
    return sha256("".join(sha256_file(path) for path in paths).encode()).hexdigest()
