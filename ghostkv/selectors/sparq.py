"""SparQ: scores from the largest components of the query.

Card
----
Paper: Ribar et al. 2024, "SparQ attention: bandwidth-efficient LLM inference".
Rule: the `components` largest ``|q_c|`` of a query choose which key components are read; the approximate
    scores choose the keys. The softmax of the approximate scores at temperature
    ``sqrt(d ||q_chosen||_1 / ||q||_1)`` says which share of the mass the chosen keys hold; the rest of the
    output is the mean of V (the paper's mean-value reallocation).
What differs: sinks and hot window are always kept, with their exact scores. The mean of V is over the cold
    keys, as for every method that uses one here.
    Heads of a KV head choose keys together. Reallocation belongs to the paper's method, so column `alone` has it;
    with one budget it is left out, and with compensation the approximate scores at that temperature give each key
    its mass.
Index bytes: fp16 values per cold key, once per KV head; heads of a group choose different components, so the group
    reads their union. (The second copy of K that the layout needs is storage, not bytes read.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Width
from ghostkv.selectors.base import ALONE, Budget, Estimate, Scene, Selection, Selector, read_at
from ghostkv.selectors.columns import rank, spend
from ghostkv.selectors.estimates import log_mass


@dataclass(frozen=True)
class SparQ(Selector):
    """Read the keys of best score in the query's largest components."""

    components: Width = 8  # components of each query
    reallocate: bool = True  # give the missing mass to the mean of V, as the paper does

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        chosen = self.largest(scene.queries)
        scores = scene.score(np.where(chosen, scene.queries, 0), scene.keys)
        return Estimate(
            scores, self._index(chosen, scene), tail=scores * self._sharpness(chosen, scene)[..., None]
        )

    def select(self, fitted: Any, scene: Scene, budget: Budget, column: str) -> Selection | None:
        """With a fixed budget, the paper's own share of the output goes to the mean of V."""
        if column != ALONE or not self.reallocate:
            return None
        ranked = rank(self, fitted, scene)
        read = spend(ranked, scene, budget, column)
        share = self._share(ranked.estimate.tail, scene, read.reads, len(read.feasible))
        return replace(read, tail_share=share)

    def _sharpness(self, chosen: np.ndarray, scene: Scene) -> np.ndarray:
        """What the paper's temperature multiplies approximate scores by, shape [group, queries]."""
        size = np.abs(scene.queries)
        kept = np.where(chosen, size, 0).sum(axis=2) / np.maximum(size.sum(axis=2), 1e-30)
        return (1 / np.sqrt(np.maximum(kept, 1e-6))).astype(np.float32)

    def _index(self, chosen: np.ndarray, scene: Scene) -> np.ndarray:
        return chosen.any(axis=0).sum(axis=1) * (scene.visible.cold * float(ELEMENT_BYTES))

    def largest(self, queries: np.ndarray) -> np.ndarray:
        """Which components of each query are read: those of largest magnitude."""
        order = np.argsort(-np.abs(queries), axis=-1, kind="stable")[..., : self.components]
        chosen = np.zeros(queries.shape, bool)
        np.put_along_axis(chosen, order, True, axis=-1)
        return chosen

    def _share(self, scores: np.ndarray, scene: Scene, reads: np.ndarray, ratios: int) -> np.ndarray:
        """Estimated mass of the keys that are not read, shape [ratios, group, queries]."""
        mass = log_mass(scores, scene)
        np.exp(mass, out=mass)
        mass *= scene.visible.mask(scene.shape[2])
        return np.stack([(mass * ~read_at(reads, r)).sum(axis=2) for r in range(ratios)])
