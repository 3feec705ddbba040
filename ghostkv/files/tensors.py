"""Named arrays as safetensors, with provenance, name and checksum in the header.

The checksum is text: ``ghostkv-sha256:`` and 64 hex digits, the SHA-256 of the whole file with zeros in their place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from ghostkv.files.io import atomic_path
from ghostkv.files.seals import NAME, UNPROVED, check_name, damaged, name_of

_ENTRY = "provenance"
_MARK = b"ghostkv-sha256:"
_BLANK = _MARK + 64 * b"0"


def save_tensors(tensors: Mapping[str, np.ndarray], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write arrays by name, atomically and with the same bytes for the same arrays."""
    # One entry: safetensors keeps several in a hash map, whose order differs from process to process.
    entry = json.dumps({**metadata, NAME: name_of(path), "checksum": _BLANK.decode()}, sort_keys=True)
    content = save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, {_ENTRY: entry})
    with atomic_path(path) as temporary:
        temporary.write_bytes(_sealed(content))


def load_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays that `save_tensors` wrote.

    Raises
    ------
    TableError
        The file is missing, was damaged, or is another artefact under this name.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise damaged(path, f"it cannot be read ({error.strerror})") from error
    before, mark, after = content.partition(_MARK)
    if not mark or _sealed(before + _BLANK + after[64:]) != content:
        raise damaged(path, UNPROVED)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    check_name(json.loads(header["__metadata__"][_ENTRY])[NAME], path)
    return load(content)


def _sealed(content: bytes) -> bytes:
    return content.replace(_BLANK, _MARK + hashlib.sha256(content).hexdigest().encode(), 1)
