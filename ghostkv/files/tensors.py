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

from ghostkv.files.errors import TableError
from ghostkv.files.io import atomic_path
from ghostkv.files.seals import NAME, UNPROVED, check_name, damaged, name_of

_ENTRY = "provenance"
_MARK = b"ghostkv-sha256:"
_BLANK = _MARK + 64 * b"0"


def save_tensors(
    tensors: Mapping[str, np.ndarray], path: str | Path, metadata: Mapping[str, str], name: str | None = None
) -> None:
    """Write arrays by name, atomically and with the same bytes for the same arrays.

    Parameters
    ----------
    name : str, optional
        What the file calls itself, where people may move and rename it; else its path says.
    """
    # One entry: safetensors keeps several in a hash map, whose order differs from process to process.
    entry = json.dumps({**metadata, NAME: name or name_of(path), "checksum": _BLANK.decode()}, sort_keys=True)
    content = save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, {_ENTRY: entry})
    with atomic_path(path) as temporary:
        temporary.write_bytes(_sealed(content))


def load_tensors(path: str | Path, name: str | None = None) -> dict[str, np.ndarray]:
    """The arrays that `save_tensors` wrote, under the same `name`.

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
    stated = json.loads(header["__metadata__"][_ENTRY])[NAME]
    if name is None:
        check_name(stated, path)
    elif stated != name:
        raise TableError(f"{path}: this is {stated}, not {name}.")
    return load(content)


def _sealed(content: bytes) -> bytes:
    return content.replace(_BLANK, _MARK + hashlib.sha256(content).hexdigest().encode(), 1)
