"""SnapKV: the keys that the latest queries attended to, with their neighbours.

Card
----
Paper: Li et al. 2024, "SnapKV: LLM knows what you are looking for before generation".
Rule: the attention mass of an observation window of the last queries, summed per key, smoothed along the text
    by a pool so that neighbours of a heavy key survive, of maxima or of means (the paper's code has both); the heaviest
    are kept, per head.
What differs: captures hold a sample of query positions, so the window is the nearest earlier *sampled*
    queries (about one in 21 tokens of the default capture) instead of consecutive ones, and it moves along
    with the query instead of being taken once at the end of the prompt, which favours SnapKV. Heads of a KV head
    decide together. With one budget the pooled mass of a key, over the observations, stands for its mass.
Index bytes: none; the choice is made once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ghostkv.config.options import Count, Odd
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import Estimate, Scene, Selector
from ghostkv.selectors.estimates import scores_of_mass


@dataclass(frozen=True)
class SnapKV(Selector):
    """Read the keys that the latest queries attended to."""

    observe: Count = 16  # earlier queries in the observation window
    kernel: Odd = 5  # width of the pool, in keys; odd
    pool: Literal["max", "mean"] = "max"

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        reach, mean = self.kernel // 2, self.pool == "mean"
        mass = windowed(scene.earlier, scene.observed, self.observe, reach, mean, scene.empty())
        # A difference of sums may come out below zero by its rounding.
        np.maximum(mass, 0, out=mass)
        # A pool of maxima adds up to more than what was observed, so masses are scaled to add up to that.
        seen = np.minimum(scene.observed, self.observe).astype(np.float32)
        mass *= (1 / np.maximum(mass.sum(axis=2), seen))[..., None]
        return Estimate(scores_of_mass(mass, scene), capped=True)


@njit(cache=True, nogil=True, error_model="numpy")
def windowed(earlier, observed, observe, reach, mean, out):
    """Pooled attention mass of the last observations before each query."""
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
                    line[j] = line[j] + moved[j] if mean else max(line[j], moved[j])
            if mean:
                # Beyond the ends of the text there is nothing, and it counts.
                for j in range(keys):
                    line[j] /= 2 * reach + 1
    return out
