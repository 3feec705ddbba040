"""What SkyLight's methods share: settings that it searches, an index of a layer, and the keys that a call reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ghostkv.stages.reproduce.skylight.call import AttentionCall, CapturedCache

# Bits of an index that its authors allow a key of 128 coordinates (32), as bits a coordinate.
INDEX_BITS = 0.25


class BoardSetting(NamedTuple):
    """A point of a method's search: a variant of it, and what sets the density of a variant."""

    variant: str
    value: float


class BoardMethod(ABC):
    """A method of the board, with the index of one layer and text."""

    name: str

    def __init__(self, cache: CapturedCache):
        self.cache = cache

    @abstractmethod
    def selections(
        self, call: AttentionCall, densities: Sequence[float]
    ) -> Iterator[tuple[BoardSetting, np.ndarray]]:
        """What a call reads under every setting that is searched for these densities; see `AttentionCall.measured`."""


class BoardTopKMethod(BoardMethod):
    """Reads the keys of largest estimate, beside sinks and local window, to a share of the keys."""

    variants: tuple[str, ...] = ("",)

    @abstractmethod
    def estimates(self, call: AttentionCall, variant: str) -> np.ndarray:
        """What keys are ranked by, float [heads, seen]."""

    def selections(
        self, call: AttentionCall, densities: Sequence[float]
    ) -> Iterator[tuple[BoardSetting, np.ndarray]]:
        for variant in self.variants:
            estimates = self.estimates(call, variant)
            for density in densities:
                heavy = max(0, round(density * call.seen) - int(call.kept.sum()))
                yield BoardSetting(variant, density), with_largest(call, estimates, heavy)


def with_largest(call: AttentionCall, estimates: np.ndarray, count: int) -> np.ndarray:
    """Sinks, local window and so many other keys of largest estimate, as 1 and 0, float32 [heads, seen]."""
    found = np.broadcast_to(call.kept, estimates.shape).astype(np.float32)
    if count > 0:
        others = np.where(call.kept, -np.inf, estimates)
        best = np.argpartition(others, -count, axis=1)[:, -count:]
        np.put_along_axis(found, best, 1.0, axis=1)
    return found


def pseudo_quantised(values: np.ndarray, bits: int) -> np.ndarray:
    """Values rounded to 2 ** bits levels between the least and the largest of their last axis."""
    least, most = values.min(axis=-1, keepdims=True), values.max(axis=-1, keepdims=True)
    step = np.maximum((most - least) / (2**bits - 1), 1e-5)
    return np.rint((values - least) / step) * step + least
