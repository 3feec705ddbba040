"""Codecs: write a key small, estimate its score, bound the error. `make` finds one by its config name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ghostkv.codecs.base import Codec, Decoded, ProjectedQueries, Records
from ghostkv.codecs.frames import PCA, Gaussian, RandomOrthogonal, TransformCode, Whitened
from ghostkv.files.errors import ConfigError

CODECS: Mapping[str, type[Codec]] = {
    codec.name: codec for codec in (Gaussian, RandomOrthogonal, PCA, Whitened, TransformCode)
}

__all__ = ["CODECS", "Codec", "Decoded", "ProjectedQueries", "Records", "load", "make"]


def make(name: str, code_bytes: int, seed: int = 0) -> Codec:
    """An unfitted codec by its config name.

    Raises
    ------
    ConfigError
        No codec has that name.
    """
    if name not in CODECS:
        raise ConfigError(f"sketch.codecs: no codec {name!r}; the codecs are {', '.join(CODECS)}")
    return CODECS[name](code_bytes=code_bytes, seed=seed)


def load(name: str, code_bytes: int, arrays: Mapping[str, np.ndarray]) -> Codec:
    """A fitted codec from the arrays that `Codec.arrays` gave."""
    return make(name, code_bytes).load(dict(arrays))
