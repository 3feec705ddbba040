"""One way to ask an `.npz` and a `.safetensors` file what tensors it holds."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError, safe_open

from ghostkv.files.errors import CaptureError

SUFFIXES = (".npz", ".safetensors")
_NAMED = {
    "layer_idx": re.compile(r"(?<![a-z])l(?:ayer)?[_\- ]?(\d+)", re.IGNORECASE),
    "head_idx": re.compile(r"(?<![a-z])h(?:ead)?[_\- ]?(\d+)", re.IGNORECASE),
}


class TensorFile:
    """The same few questions to an npz and to a safetensors file."""

    def __init__(self, path: Path, handle: Any):
        self.path, self._handle, self._npz = path, handle, path.suffix == ".npz"
        self.names = sorted(handle.files if self._npz else handle.keys())

    def describe(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Type and shape of a tensor."""
        if self._npz:
            array = self.read(name)
            return str(array.dtype), array.shape
        part = self._handle.get_slice(name)
        return part.get_dtype(), tuple(part.get_shape())

    def read(self, name: str) -> np.ndarray:
        if not self._npz:
            return self._handle.get_tensor(name)
        try:
            return self._handle[name]
        except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
            raise CaptureError(
                f"{self.path}: `{name}` cannot be read ({error}). Accepted: plain arrays; Python objects are "
                "never unpickled.\n"
                f"  Write: np.savez(path, {name}=np.asarray(..., np.float16))"
            ) from error

    def index(self, name: str) -> int | None:
        """`layer_idx` or `head_idx` of the file: its scalar, else the number in its name, else None."""
        if name not in self.names:
            named = _NAMED[name].search(self.path.stem)
            return int(named.group(1)) if named else None
        array = self.read(name)
        if array.size != 1 or array.dtype.kind not in "iu" or int(array.reshape(())) < 0:
            raise CaptureError(
                f"{self.path}: `{name}` is of type {array.dtype} and shape {list(array.shape)}. Accepted: one "
                "integer, 0 or more.\n"
                f"  Write: {name}=np.int64(3)"
            )
        return int(array.reshape(()))


@contextmanager
def opened(path: Path) -> Iterator[TensorFile]:
    try:
        if path.suffix == ".npz":
            handle = np.load(path, allow_pickle=False)
            if not isinstance(handle, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive")
        else:
            handle = safe_open(path, framework="numpy")
    except (ValueError, OSError, EOFError, BadZipFile, SafetensorError) as error:
        raise CaptureError(
            f"{path}: not a readable {path.suffix} file ({error}). Accepted: files written by numpy.savez or "
            "safetensors.\n"
            "  Write it again, or take it out of the folder"
        ) from error
    with handle:
        yield TensorFile(path, handle)
