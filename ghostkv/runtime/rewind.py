"""Having a cache again as it was before a model went on from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from transformers import Cache
from transformers.cache_utils import LinearAttentionCacheLayerMixin


def kept_aside(cache: Cache) -> dict[int, Any]:
    """Copies of the layers that forget what they read, and so cannot be cut back: recurrent and convolutional ones."""
    return {
        layer: copy.deepcopy(one)
        for layer, one in enumerate(cache.layers)
        if isinstance(one, LinearAttentionCacheLayerMixin)
    }


def cut_back(cache: Cache, tokens: int, aside: Mapping[int, Any]) -> None:
    """Have the first `tokens` tokens in a cache and no others; `aside` was taken when it had as many."""
    surplus = cache.get_seq_length() - tokens
    for layer, one in enumerate(cache.layers):
        if layer in aside:
            cache.layers[layer] = copy.deepcopy(aside[layer])
        elif surplus > 0:
            one.crop(-surplus)
