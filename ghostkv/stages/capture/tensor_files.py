"""One way to ask an `.npz` and a `.safetensors` file what tensors it holds."""

from __future__ import annotations

import math
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
# A number counts where it ends a word of its own: `layer03_head05`, `l03-h05`, `L3H5`. A letter in place of the word
# `head` counts after a layer alone, and L40S is no layer at all.
_PAIR = r"(?<![a-z0-9])l(?:ayers?)?[._\- ]?(?P<layer_idx>\d+)[._\- ]?h(?:eads?)?[._\- ]?(?P<head_idx>\d+)(?![a-z0-9])"
_ALONE = {
    "layer_idx": r"(?<![a-z0-9])l(?:ayers?)?[._\- ]?(?P<layer_idx>\d+)(?![a-z0-9])",
    "head_idx": r"(?<![a-z0-9])heads?[._\- ]?(?P<head_idx>\d+)(?![a-z0-9])",
}
_INTEGER = re.compile(r"u?int\d+|[IU]\d+")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LARGEST = {"layer_idx": 999, "head_idx": 1023}
# Tensors of a model hardly shrink; a member that shrank so much, and is so large, is made to fill the memory.
_FOLDED, _LARGE = 200, 1 << 26


class TensorFile:
    """The same few questions to an npz and to a safetensors file."""

    def __init__(self, path: Path, handle: Any):
        self.path, self._handle, self._npz = path, handle, path.suffix == ".npz"
        self.names = sorted(handle.files if self._npz else handle.keys())

    def describe(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Type and shape of a tensor."""
        if self._npz:
            with self._refusing(name):
                return self._header(name)
        part = self._handle.get_slice(name)
        return part.get_dtype(), tuple(part.get_shape())

    def read(self, name: str) -> np.ndarray:
        if not self._npz:
            return self._handle.get_tensor(name)
        with self._refusing(name):
            self._header(name)
            return self._handle[name]

    @contextmanager
    def _refusing(self, name: str) -> Iterator[None]:
        try:
            yield
        except (
            ValueError,
            OSError,
            EOFError,
            KeyError,
            BadZipFile,
            NotImplementedError,
            zlib.error,
        ) as error:
            raise CaptureError(
                f"{self.path}: `{name}` cannot be read ({error}). Accepted: plain arrays; Python objects are "
                "never unpickled.\n"
                f"  Write: np.savez(path, {name}=np.asarray(..., np.float16))"
            ) from error

    def _header(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Type and shape as the head of an archive's member states them, before any memory is taken for it."""
        archive = self._handle.zip
        member = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"an array of format {version}")
            shape, _, dtype = _HEADERS[version](file)
            left = member.file_size - file.tell()
        if dtype.hasobject:
            raise ValueError("an array of Python objects")
        if math.prod(shape) * dtype.itemsize != left:
            raise ValueError(f"it states shape {list(shape)} of {dtype} and holds {left:,} bytes")
        if member.file_size > _LARGE and member.file_size > _FOLDED * member.compress_size:
            raise ValueError(f"{member.file_size:,} bytes, folded into {member.compress_size:,}")
        return str(dtype), shape

    def index(self, name: str) -> int | None:
        """`layer_idx` or `head_idx` of the file: its scalar, else the number in its name, else None."""
        most = _LARGEST[name]
        if name not in self.names:
            found = self._named(name)
            if len(found) > 1 or any(number > most for number in found):
                raise CaptureError(
                    f"{self.path}: the name says {name} {' and '.join(map(str, found))}. Accepted: one number from 0 to "
                    f"{most}.\n  Write: {name}=np.int64(3) into the file, or name it layer03_head05{self.path.suffix}"
                )
            return found[0] if found else None
        kind, shape = self.describe(name)
        if (
            math.prod(shape) != 1
            or not _INTEGER.fullmatch(kind)
            or not 0 <= (number := int(self.read(name).item())) <= most
        ):
            raise CaptureError(
                f"{self.path}: `{name}` is of type {kind} and shape {list(shape)}. Accepted: one integer from 0 to {most}.\n"
                f"  Write: {name}=np.int64(3)"
            )
        return number

    def _named(self, name: str) -> list[int]:
        """The different numbers that the name of the file gives."""
        matches = (
            int(one[name])
            for pattern in (_PAIR, _ALONE[name])
            for one in re.finditer(pattern, self.path.stem, re.IGNORECASE)
        )
        return sorted(set(matches))


@contextmanager
def opened(path: Path) -> Iterator[TensorFile]:
    try:
        if path.suffix == ".npz":
            handle = np.load(path, allow_pickle=False)
            if not isinstance(handle, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive")
            if len(set(handle.files)) < len(handle.files):
                raise ValueError("two members of one name")
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
