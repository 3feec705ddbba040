"""A capture from tensors that a lab already has."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ghostkv.captures.positions import sample_positions
from ghostkv.captures.proven_writer import ProvenWriter, folder_of
from ghostkv.files import provenance
from ghostkv.files.errors import CaptureError
from ghostkv.files.io import sha256_file
from ghostkv.stages.capture.tensor_import import layers_in, load_layer


def import_tensors(params: Mapping[str, Any], outputs: Mapping[str, str]) -> None:
    """Turn a folder of captured tensors into a capture.

    Parameters
    ----------
    params : mapping
        `text`, the name that the tensors go by; `folder`, `domain`, `role` and `scale` (None for
        1/sqrt(head_dim)) of its entry in `capture.import`; `tokens`, `layers`, `query_bands` and `seed` of
        config section `capture`; `code`.
    outputs : mapping
        As for `capture_text`.

    Raises
    ------
    CaptureError
        A tensor is malformed, too short, or a layer is missing; the message names the file and key.
    """
    text, folder = params["text"], folder_of(outputs)
    found = layers_in(params["folder"])
    positions = sample_positions(params["query_bands"], params["tokens"], text, params["seed"])
    metadata = provenance.metadata(params.get("code")) | {
        "model": f"imported from {Path(params['folder']).name}",
        "weight_sha256": "",
        "text": text,
        "text_sha256": _sha256_of_files(found),
        "domain": params["domain"],
        "role": params["role"],
        "cache_dtype": "float16",
    }
    with ProvenWriter(folder, metadata, tolerance=None) as writer:
        for layer in sorted(found if params["layers"] == "all" else params["layers"]):
            tensors = load_layer(found, layer)
            if tensors.keys.shape[1] < params["tokens"]:
                raise CaptureError(
                    f"{found[layer][0].path}: has {tensors.keys.shape[1]} tokens, fewer than capture.tokens: "
                    f"{params['tokens']}.\n"
                    f"  Write: tokens: {tensors.keys.shape[1]}   and query_bands within it, under capture"
                )
            writer.append(*tensors.first(params["tokens"]).capture(positions, params.get("scale")))


def _sha256_of_files(found: Mapping[int, Any]) -> str:
    paths = sorted({part.path for parts in found.values() for part in parts})
    return sha256("".join(sha256_file(path) for path in paths).encode()).hexdigest()
