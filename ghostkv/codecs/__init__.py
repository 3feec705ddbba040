"""Codecs: write a key small, estimate its score, bound the error. One module each; the config names the module.

To add one, write `ghostkv/codecs/<name>.py` with one dataclass derived from `Codec`, and a line under `sketch.codecs`
in the config. Nothing else lists codecs.
"""

from __future__ import annotations

from collections.abc import Collection

from ghostkv.codecs.base import Codec, Decoded, Records
from ghostkv.files.errors import ConfigError
from ghostkv.files.methods import load, methods

__all__ = ["Codec", "Decoded", "Records", "make", "modules", "names"]

_ROOM = "ghostkv.codecs."


def names() -> list[str]:
    """Codecs that a config can name."""
    return list(methods("codecs", "Codec"))


def modules(chosen: Collection[str]) -> tuple[str, ...]:
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
