"""SnapKV: the keys that the latest queries attended to, with their neighbours.

Card
----
Paper: Li et al. 2024, "SnapKV: LLM knows what you are looking for before generation".
Rule: the attention mass of an observation window of the last queries, summed per key, smoothed along the text
    by a max pool so that neighbours of a heavy key survive; the heaviest are kept, per head.
What differs: captures hold a sample of query positions, so the window is the nearest earlier *sampled*
    queries (about one in 21 tokens of the default capture) instead of consecutive ones, and it moves along
    with the query instead of being taken once at the end of the prompt, which favours SnapKV.
Index bytes: none; the choice is made once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostkv.config.options import Count, Odd
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import Budget, Scene, Selection, Selector, read_best


@dataclass(frozen=True)
class SnapKV(Selector):
    """Read the keys that the latest queries attended to."""

    observe: Count = 16  # earlier queries in the observation window
    kernel: Odd = 5  # width of the max pool, in keys; odd

    def select(self, fitted: Any, scene: Scene, budget: Budget) -> Selection:
        mass = windowed(scene.earlier, scene.observed, self.observe, self.kernel // 2, scene.empty())
        return read_best(mass, scene, budget)


@njit(cache=True, nogil=True, error_model="numpy")
def windowed(earlier, observed, observe, reach, out):
    """Max-pooled attention mass of the last observations before each query."""
    keys = earlier.shape[2]
    padded = np.zeros(keys + 2 * reach, np.float32)
    for g in range(earlier.shape[0]):
        total, first, last = np.zeros(keys), 0, 0
        for q in range(len(observed)):
            while last < observed[q]:
                row = earlier[g, last]
                for j in range(keys):
                    total[j] += row[j]
                last += 1
            while first < max(observed[q] - observe, 0):
                row = earlier[g, first]
                for j in range(keys):
                    total[j] -= row[j]
                first += 1
            for j in range(keys):
                padded[reach + j] = total[j]
            line = out[g, q]
            line[:] = padded[:keys]
            for shift in range(1, 2 * reach + 1):
                moved = padded[shift : shift + keys]
                for j in range(keys):
                    line[j] = max(line[j], moved[j])
    return out
