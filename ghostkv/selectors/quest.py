"""Quest: pages whose box of keys could hold the largest score.

Card
----
Paper: Tang et al. 2024, "Quest: query-aware sparsity for efficient long-context LLM inference".
Rule: every page of consecutive tokens stores the least and the largest of each key component. For a query the
    box bounds every score of the page, ``max_k q.k <= sum_c max(q_c min_c, q_c max_c)``; pages are read whole
    in order of that bound until the budget is spent.
What differs: nothing in the rule. All layers are treated alike (the paper leaves the first two dense). A page
    that overlaps the sinks or the hot window costs only its cold keys.
Index bytes: two fp16 vectors per page that holds a cold key, once per KV head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Count
from ghostkv.elimination.attention import ColdRange
from ghostkv.selectors.base import Budget, Scene, Selection, Selector, per_ratio


@dataclass(frozen=True)
class Quest(Selector):
    """Read whole pages by the bound of their box."""

    page: Count = 16  # tokens per page

    def select(self, fitted: Any, scene: Scene, budget: Budget) -> Selection:
        order = np.argsort(-self.bounds(scene), axis=-1, kind="stable")
        index = self._pages(scene.visible) * (2.0 * ELEMENT_BYTES * scene.keys.shape[1])
        counts = budget.counts(budget.allowance(index), scene.shape[0])
        reads = scene.take_pages(order, counts, self.page)
        return Selection(reads, counts[:, 0, 0] >= 0, per_ratio(budget, scene.shape[0], index))

    def bounds(self, scene: Scene) -> np.ndarray:
        """Upper bound of every page's scores, shape [group, queries, pages]."""
        # Whole pages by shape, as reduceat takes the components of a key one by one; a last one that is not full by itself.
        whole = len(scene.keys) // self.page * self.page
        pages = scene.keys[:whole].reshape(-1, self.page, scene.keys.shape[1])
        low, high = pages.min(axis=1), pages.max(axis=1)
        if whole < len(scene.keys):
            rest = scene.keys[whole:]
            low, high = np.vstack([low, rest.min(axis=0)]), np.vstack([high, rest.max(axis=0)])
        queries = scene.queries * np.float32(scene.scale)
        return np.maximum(queries, 0) @ high.T + np.minimum(queries, 0) @ low.T

    def _pages(self, visible: ColdRange) -> np.ndarray:
        """Pages that hold a cold key."""
        return np.where(visible.cold > 0, (visible.stop - 1) // self.page - visible.start // self.page + 1, 0)
