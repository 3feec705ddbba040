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
Index bytes: `components` fp16 values per cold key and head; heads of a group choose different components, so
    the group reads their union. (The second copy of K that the layout needs is storage, not bytes read.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Width
from ghostkv.selectors.base import Budget, Scene, Selection, Selector, read_best
from ghostkv.selectors.estimates import log_mass


@dataclass(frozen=True)
class SparQ(Selector):
    """Read the keys of best score in the query's largest components."""

    components: Width = 8  # components of each query
    reallocate: bool = True  # give the missing mass to the mean of V, as the paper does

    def select(self, fitted: Any, scene: Scene, budget: Budget) -> Selection:
        chosen = self.largest(scene.queries)
        masked = np.where(chosen, scene.queries, 0)
        priority = scene.score(masked, scene.keys)
        cold = scene.visible.cold
        width = min(self.components, scene.keys.shape[1])
        read = read_best(priority, scene, budget, cold * float(ELEMENT_BYTES * width))
        united = chosen.any(axis=0).sum(axis=1) * (cold * float(ELEMENT_BYTES))
        group_index = np.broadcast_to(united, (len(budget.ratios), len(united)))
        share = self._share(priority, masked, read, scene) if self.reallocate else None
        return Selection(read.reads, read.feasible, read.index_bytes, group_index, tail_share=share)

    def largest(self, queries: np.ndarray) -> np.ndarray:
        """Which components of each query are read: those of largest magnitude."""
        order = np.argsort(-np.abs(queries), axis=-1, kind="stable")[..., : self.components]
        chosen = np.zeros(queries.shape, bool)
        np.put_along_axis(chosen, order, True, axis=-1)
        return chosen

    def _share(self, scores: np.ndarray, masked: np.ndarray, read: Selection, scene: Scene) -> np.ndarray:
        """Estimated mass of the keys that are not read, shape [ratios, group, queries]."""
        kept = np.abs(masked).sum(axis=2) / np.maximum(np.abs(scene.queries).sum(axis=2), 1e-30)
        scores *= (1 / np.sqrt(np.maximum(kept, 1e-6)))[..., None]
        mass = log_mass(scores, scene)
        return scene.left(read.reads, np.exp(mass, out=mass), len(read.feasible))
