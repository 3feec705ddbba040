"""What earlier queries attended to, for selectors that look at it: the latest each for itself, older ones as a sum."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Observations:
    """Attention mass of queries by row of the batch and KV head.

    Arrays are never written to, so that copies may share them.
    """

    # By row and KV head, float32 [group, observations, tokens] in order of position
    rows: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    # int64 [observations]; token of the cache whose query it was; of a sum, the last one that went into it
    places: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    summed: set[tuple[int, int]] = field(default_factory=set)  # whose first observation is a sum of several
    lost: bool = False  # a sum held queries that had to go

    @property
    def apart(self) -> int:
        """Latest observations that are no sum, at least; without a sum nothing is missing."""
        return min((len(self.places[key]) - 1 for key in self.summed), default=sys.maxsize)

    def copy(self) -> Observations:
        """The same observations, to add others to."""
        return Observations(dict(self.rows), dict(self.places), set(self.summed), self.lost)

    def select(self, rows: np.ndarray) -> Observations:
        """Those of some rows of the batch, in the order of `rows`."""
        heads = {h for _, h in self.rows}
        new = {
            (b, h): (int(row), h) for b, row in enumerate(rows) for h in heads if (int(row), h) in self.rows
        }
        return Observations(
            {key: self.rows[old] for key, old in new.items()},
            {key: self.places[old] for key, old in new.items()},
            {key for key, old in new.items() if old in self.summed},
            self.lost,
        )

    def thinned(self, b: int, h: int, keep: np.ndarray) -> None:
        """Go on with some of the observations [observations] of a row and KV head."""
        self.rows[b, h], self.places[b, h] = self.rows[b, h][:, keep], self.places[b, h][keep]

    def add(self, b: int, h: int, mass: np.ndarray, places: np.ndarray, keep: int) -> None:
        """Add the mass [group, queries, tokens] of later queries; of all, those before the last `keep` become one sum."""
        key, rows = (b, h), mass
        if key in self.rows:
            rows, places = joined(self.rows[key], mass), np.concatenate([self.places[key], places])
        if len(places) > keep + 1:
            older = rows[:, :-keep].sum(axis=1, keepdims=True)
            rows, places = np.concatenate([older, rows[:, -keep:]], axis=1), places[-keep - 1 :]
            self.summed.add(key)
        # The mass is often a part of something larger, or of a buffer.
        self.rows[key], self.places[key] = rows.copy(), places

    def before(self, tokens: int) -> Observations:
        """Those of queries before a token of the cache."""
        if all(places[-1] < tokens for places in self.places.values()):
            return self
        found = Observations(lost=self.lost and tokens > 0)
        for key, places in self.places.items():
            left = int(np.searchsorted(places, tokens))
            if left:
                found.rows[key], found.places[key] = self.rows[key][:, :left], places[:left]
                found.summed |= self.summed & {key}
            else:
                found.lost |= key in self.summed and tokens > 0
        return found


def joined(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Observations one after the other, of the tokens that the later ones know; where the cache was cut, the others knew
    more, and gave them nothing."""
    earlier = earlier[:, :, : later.shape[2]]
    wider = later.shape[2] - earlier.shape[2]
    return np.concatenate([np.pad(earlier, ((0, 0), (0, 0), (0, wider))), later], axis=1)
