"""H2O: the keys that earlier queries attended to most, over the whole past.

Card
----
Paper: Zhang et al. 2023, "H2O: heavy-hitter oracle for efficient generative inference".
Rule: every key accumulates the attention mass that earlier queries of its head gave it; the heaviest are
    kept, beside recent ones. `recent` is the share of the budget that widens the recent window (the paper
    splits the cache in halves; the lab's hot window is recent already).
What differs: captures hold a sample of query positions, so mass accumulates over the earlier *sampled*
    queries rather than over all; and a key that fell out once may come back, because mass accumulates over
    full attention rather than over what H2O itself kept. The second favours H2O.
Index bytes: one fp16 accumulator per key that is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Part
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import Budget, Scene, Selection, Selector, read_best


@dataclass(frozen=True)
class H2O(Selector):
    """Read the keys of most accumulated attention."""

    recent: Part = 0.0  # share of the keys read that are simply the most recent ones

    def select(self, fitted: Any, scene: Scene, budget: Budget) -> Selection:
        mass = accumulate(scene.earlier, scene.observed, scene.empty())
        return read_best(mass, scene, budget, key_bytes=ELEMENT_BYTES, recent=self.recent)


@njit(cache=True, nogil=True, error_model="numpy")
def accumulate(earlier, observed, out):
    """Attention mass that the observations before each query gave to every key."""
    for g in range(earlier.shape[0]):
        total, seen = np.zeros(earlier.shape[2]), 0
        for q in range(len(observed)):
            while seen < observed[q]:
                row = earlier[g, seen]
                for j in range(row.size):
                    total[j] += row[j]
                seen += 1
            for j in range(total.size):
                out[g, q, j] = total[j]
    return out
