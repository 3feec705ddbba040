"""Write a capture that was proved: each layer within tolerance, each file read back as it was written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import numpy as np

from ghostkv.captures.capture_files import CaptureWriter, LayerCapture, read_layer
from ghostkv.files.errors import CaptureError

FILES = ("kv", "queries", "layers")

logger = logging.getLogger(__name__)


class ProvenWriter:
    """A `CaptureWriter` that opens with the first layer, refuses a layer above tolerance, and reads the files
    back at the end."""

    def __init__(self, folder: Path, metadata: Mapping[str, str], tolerance: float | None):
        self._folder, self._metadata, self._tolerance = folder, metadata, tolerance
        self._writer: CaptureWriter | None = None
        self._shape: tuple[int, int] | None = None
        self._written: dict[int, str] = {}

    def __enter__(self) -> ProvenWriter:
        # What a killed run left half-written: 80 MB that nothing else would ever remove.
        for name in FILES:
            for leftover in self._folder.glob(f".{name}.parquet.*.part"):
                leftover.unlink()
        self._stack = ExitStack()
        return self

    def append(self, capture: LayerCapture, proof: Mapping[str, float | int | None]) -> None:
        capture.refuse_unfit(self._folder)
        shape = (capture.keys.shape[2], 0 if capture.values is None else capture.values.shape[2])
        if self._writer is None:
            self._shape = shape
            self._writer = self._stack.enter_context(CaptureWriter(self._folder, *shape, self._metadata))
        if shape != self._shape:
            raise CaptureError(
                f"layer {capture.layer} has key and value widths {shape}, the layers before it "
                f"{self._shape}; one capture holds one width.\n  Write: layers: [...] with the layers of "
                "one width only"
            )
        self._check(capture.layer, proof)
        self._writer.append(capture, proof)
        self._written[capture.layer] = _digest(capture)
        error = proof["max_relative_error"]
        logger.info(
            "layer %d: %s",
            capture.layer,
            "written without values"
            if error is None
            else f"recomputed within {error:.1e} of the model's own output",
        )

    def _check(self, layer: int, proof: Mapping[str, float | int | None]) -> None:
        error = proof["unexplained_relative_error"]
        # "not <=" so that a NaN fails too.
        if self._tolerance is not None and not error <= self._tolerance:
            raise CaptureError(
                f"layer {layer}: attention recomputed from the capture differs from the model's own output "
                f"by {proof['max_relative_error']:.2e} relative in its worst query (mean {proof['mean_relative_error']:.2e}), "
                f"{error:.2e} of which rounding in the model's dtype does not explain, above capture.tolerance: "
                f"{self._tolerance:g}. From K and V as attention read them the difference is "
                f"{proof['exact_relative_error']:.2e}; rounding them to float16 changes the output by "
                f"{proof['storage_relative_error']:.2e}.\n"
                "  If that rounding is the cause, write: cache_dtype: float16. If it is not, and model.dtype is float16 or "
                "bfloat16, the attention rounds more than its weights and output: write dtype: float32 under model"
            )

    def __exit__(self, kind, error, trace) -> None:
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            self._read_back()

    def _read_back(self) -> None:
        """What is on disk is what was proved, bit for bit; anything else is removed."""
        for layer, digest in self._written.items():
            if _digest(read_layer(self._folder, layer)) != digest:
                for name in FILES:
                    (self._folder / f"{name}.parquet").unlink(missing_ok=True)
                raise CaptureError(
                    f"{self._folder}: layer {layer} read back from disk differs from what was written, so "
                    "the capture was removed. Check the disk and rerun"
                )


def _digest(capture: LayerCapture) -> str:
    """SHA-256 over a layer's arrays: keys, values, queries, outputs, positions."""
    digest = sha256()
    for array in (capture.keys, capture.values, capture.queries, capture.outputs, capture.positions):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
