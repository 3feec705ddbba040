"""Floating point: fp16, which is the full cache itself, and fp8 (e4m3).

Card
----
Paper: Micikevicius et al. 2022, "FP8 formats for deep learning": 4 bits of exponent, 3 of mantissa, largest number 448.
    vLLM's `kv_cache_dtype: fp8` is this with a scale of 1 unless one was calibrated.
Rule: `Fp8` rounds a number to the nearest e4m3, half to even, and saturates beyond 448. With `scaled`, all channels of one
    token and head share an fp16 scale that maps the largest onto 448.
What differs: nothing is calibrated.
Bytes: 1 a number; with `scaled` 2 more for a key and for a value. fp16: 2 a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.quantised.base import HALF_BYTES, CacheType

E4M3_MAX = 448.0
# Exponent of the smallest normal number, and bits of the mantissa.
_LEAST, _MANTISSA = -6, 3


def to_e4m3(numbers: np.ndarray) -> np.ndarray:
    """The nearest numbers of e4m3, float32; those beyond 448 saturate."""
    held = np.clip(numbers, -E4M3_MAX, E4M3_MAX).astype(np.float32)
    exponent = np.frexp(held)[1] - 1
    step = np.ldexp(np.float32(1.0), np.maximum(exponent, _LEAST) - _MANTISSA)
    return np.rint(held / step) * step


@dataclass(frozen=True)
class Fp16(CacheType):
    """The full cache."""

    def quantise(self, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(one.astype(np.float16).astype(np.float32) for one in (keys, values))

    def pair_bytes(self, head_dim: int, value_dim: int) -> float:
        return float(HALF_BYTES * (head_dim + value_dim))


@dataclass(frozen=True)
class Fp8(CacheType):
    """e4m3, as it is or with a scale for each token and head."""

    scaled: bool = False

    def quantise(self, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(self._scaled(one) if self.scaled else to_e4m3(one) for one in (keys, values))

    def pair_bytes(self, head_dim: int, value_dim: int) -> float:
        scales = HALF_BYTES * ((head_dim > 0) + (value_dim > 0)) if self.scaled else 0
        return float(head_dim + value_dim + scales)

    @staticmethod
    def _scaled(numbers: np.ndarray) -> np.ndarray:
        largest = np.abs(numbers).max(axis=1, keepdims=True)
        scale = (largest / E4M3_MAX).astype(np.float16).astype(np.float32)
        scale = np.where(scale > 0, scale, np.float32(1.0))
        return to_e4m3(numbers / scale) * scale
