"""Codecs by the name that the config gives them, which is their file's.

Apart from the package itself: whoever imports this depends on every codec, unless a job says which it uses.
"""

from __future__ import annotations

from collections.abc import Iterable

from ghostkv.codecs.base import Codec
from ghostkv.files.errors import ConfigError
from ghostkv.files.methods import load, methods

_ROOM = "ghostkv.codecs."


def names() -> list[str]:
    """Codecs that a config can name."""
    return list(methods("codecs", "Codec"))


def modules(chosen: Iterable[str]) -> tuple[str, ...]:
    """The modules of codecs, for `Job.uses`: its fingerprint then covers these codecs instead of all."""
    return tuple(sorted(f"{_ROOM}{name}" for name in set(chosen)))


def make(name: str, code_bytes: int, seed: int = 0) -> Codec:
    """An unfitted codec by its config name.

    Raises
    ------
    ConfigError
        No codec has that name.
    """
    if name not in names():
        raise ConfigError(f"sketch.codecs: no codec {name!r}; the codecs are {', '.join(names())}")
    return load(_ROOM, name, Codec)(code_bytes=code_bytes, seed=seed)
