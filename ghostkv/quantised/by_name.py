"""Cache types by the name that a config gives them."""

from __future__ import annotations

from collections.abc import Mapping

from ghostkv.files.errors import ConfigError
from ghostkv.quantised.base import CacheType
from ghostkv.quantised.floats import Fp8, Fp16
from ghostkv.quantised.integers import Integers
from ghostkv.quantised.kivi import Kivi

CACHE_TYPES: Mapping[str, CacheType] = {
    "fp16": Fp16(),
    "fp8": Fp8(),
    "fp8_scaled": Fp8(scaled=True),
    "int8": Integers(8, group=None),
    "int6": Integers(6),
    "int4": Integers(4),
    "int3": Integers(3),
    "kivi2": Kivi(),
}


def cache_type(name: str) -> CacheType:
    """A cache type by name.

    Raises
    ------
    ConfigError
        No cache type has that name.
    """
    if name not in CACHE_TYPES:
        raise ConfigError(
            f"cache: no cache type {name!r}. Accepted: {', '.join(CACHE_TYPES)}.\n  Write: cache: int4"
        )
    return CACHE_TYPES[name]
