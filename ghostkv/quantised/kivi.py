"""KIVI: 2 bits, keys by channel and values by token.

Card
----
Paper: Liu et al. 2024, "KIVI: a tuning-free asymmetric 2bit quantization for KV cache" (ICML 2024).
Rule: channels of K hold outliers, so keys share scale and zero point along tokens: a group is `group` tokens of one channel.
    Values are written token by token, in groups of `group` channels. The most recent tokens stay in fp16: up to `residual`
    keys, which are written when they are so many, and the last `residual` values.
What differs: nothing; 32 and 128 are the paper's.
Bytes: ``2 / 8`` a number, and 4 for every group; what is kept in fp16 counts as such.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.quantised.base import HALF_BYTES, CacheType, grouped, scale_bytes

GROUP = 32


@dataclass(frozen=True)
class Kivi(CacheType):
    """Keys in groups of tokens, values in groups of channels."""

    bits: int = 2
    residual: int = 128

    together = GROUP

    def quantise(self, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        read, whole = keys.astype(np.float32), len(keys) // GROUP * GROUP
        read[:whole] = grouped(keys[:whole], self.bits, GROUP, axis=0)
        return read, grouped(values, self.bits, GROUP)

    def pair_bytes(self, head_dim: int, value_dim: int) -> float:
        # Scale and zero point of a channel serve all tokens of a group.
        keys = head_dim * (self.bits / 8 + 2 * HALF_BYTES / GROUP)
        return keys + value_dim * self.bits / 8 + scale_bytes(value_dim, GROUP)

    def kept(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tokens // self.residual * self.residual, np.maximum(tokens - self.residual, 0)
