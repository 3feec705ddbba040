"""Types of a quantised cache, as a config names them."""

from __future__ import annotations

from typing import Literal

from ghostkv.quantised.by_name import CACHE_TYPES

CacheName = Literal[*CACHE_TYPES]
# Those that write each token by itself, so that records can be written of what is read back.
TokenCacheName = Literal[*(name for name, kind in CACHE_TYPES.items() if kind.together == 1)]
