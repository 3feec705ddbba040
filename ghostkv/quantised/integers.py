"""Integers with a scale and a zero point: INT8, INT6, INT4, INT3.

Card
----
Paper: Sheng et al. 2023, "FlexGen: high-throughput generative inference of large language models with a single GPU"
    (group-wise asymmetric INT4 of the cache); vLLM and LMDeploy serve INT8 and INT4 of each token and head.
Rule: a token's key is cut into groups of neighbouring channels, its value too. A group has an fp16 scale and an fp16 zero
    point, and each number a code of so many bits.
What differs: nothing is fitted, rotated or clipped, so that a type is what its bits say.
Bytes: ``bits / 8`` a number, and 4 for every group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.quantised.base import CacheType, grouped, scale_bytes


@dataclass(frozen=True)
class Integers(CacheType):
    """Codes of `bits` for groups of `group` channels of one token; None: all channels of a head."""

    bits: int
    group: int | None = 32

    def quantise(self, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(grouped(one, self.bits, self.group or one.shape[1]) for one in (keys, values))

    def pair_bytes(self, head_dim: int, value_dim: int) -> float:
        return sum(
            width * self.bits / 8 + scale_bytes(width, self.group or width) for width in (head_dim, value_dim) if width
        )  # fmt: skip
