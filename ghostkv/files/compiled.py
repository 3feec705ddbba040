"""Loops that Numba compiles, kept on disk for as long as nothing that they are made of has changed.

Numba compiles a loop anew when its own file changes. A loop also holds what it calls and reads of other files, and
would go on with what those said before: after a `git pull`, or an edit. Here a compiled loop belongs to the fingerprint of
its module (`ghostkv.files.provenance`), which covers all that the module imports.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import IndexDataCacheFile as _Index
from numba.core.caching import _SourceFileBackedLocatorMixin as _Locator

from ghostkv.files.provenance import PACKAGE, fingerprint

__all__ = ["njit"]

_of_one_file, _opened = _Locator.get_source_stamp, _Index.__init__


@cache
def _code_of(file: str) -> str | None:
    """The fingerprint of a file of the package; None of any other file."""
    path = Path(file).resolve()
    if not path.is_relative_to(PACKAGE.resolve()):
        return None
    return fingerprint(".".join([PACKAGE.name, *path.relative_to(PACKAGE.resolve()).with_suffix("").parts]))


def _stamp(locator: Any) -> Any:
    return _code_of(locator._py_file) or _of_one_file(locator)


def _open(index: Any, cache_path: str, filename_base: str, source_stamp: Any) -> None:
    _opened(index, cache_path, filename_base, source_stamp)
    # Numba looks at its own version first, and reads no further if it is another: what follows may name classes that were
    # renamed since, and cannot be read.
    index._version = f"{index._version} {source_stamp}"


_Locator.get_source_stamp, _Index.__init__ = _stamp, _open
