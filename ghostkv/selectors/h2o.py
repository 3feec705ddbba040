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
    Heads decide together by the sum of what their queries gave. With one budget a key's share of all that was
    observed stands for its mass, and there is no recent half.
Index bytes: one fp16 accumulator per head and key that is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Part
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import ALONE, Budget, Estimate, Scene, Selection, Selector
from ghostkv.selectors.estimates import scores_of_mass


@dataclass(frozen=True)
class H2O(Selector):
    """Read the keys of most accumulated attention."""

    recent: Part = 0.0  # share of the keys read that are simply the most recent ones

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        mass = accumulate(scene.earlier, scene.observed, scene.empty())
        mass /= np.maximum(scene.observed, 1).astype(np.float32)[:, None]
        return Estimate(scores_of_mass(mass, scene), key_bytes=ELEMENT_BYTES * scene.shape[0], capped=True)

    def select(self, fitted: Any, scene: Scene, budget: Budget, column: str) -> Selection | None:
        """With a fixed budget, a part of it goes to the most recent keys."""
        if column != ALONE or not self.recent:
            return None
        key_bytes = ELEMENT_BYTES * scene.shape[0]
        mass = accumulate(scene.earlier, scene.observed, scene.empty()).sum(axis=0)
        counts = budget.counts(budget.allowance(), key_bytes)
        window = np.maximum((self.recent * counts).astype(np.int64), 0)
        index = np.maximum(counts, 0) * float(key_bytes)
        return Selection(scene.take(mass, counts, window), counts[:, 0] >= 0, index)


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
