"""Oracle top-p: the fewest keys that hold a share p of the mass.

Card
----
Paper: Twilight (Lin et al. 2025) prunes to a mass p; here with exact scores and exact mass, so a ceiling of
    rules whose number of keys follows the query.
Rule: keys in order of exact mass, the mean of the group's heads, until the mass of those kept reaches p; p is the same
    for all queries of a KV head and text, and is the largest that the budget of that very text affords, to 0.3 % of the
    missing mass (no user could choose it).
Index bytes: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ghostkv.selectors.base import ONE_BUDGET, Budget, Scene, Selection, Selector
from ghostkv.selectors.picking import ThresholdHistogram

# Log of the missing mass below which all keys are alike.
_LOW = -24.0


@dataclass(frozen=True)
class OracleTopP(Selector):
    """Read the fewest keys that hold a share of the exact mass."""

    kind: ClassVar[str] = "oracle"

    columns: ClassVar[tuple[str, ...]] = (ONE_BUDGET,)

    def select(self, fitted: Any, scene: Scene, budget: Budget, column: str) -> Selection:
        share = budget.allowance() / budget.full
        mass = np.exp(scene.scores - np.max(scene.scores, axis=-1, keepdims=True))
        mass = (mass / mass.sum(axis=-1, keepdims=True)).mean(axis=0)
        mass *= scene.visible.mask(scene.shape[2])
        order = np.argsort(-mass, axis=-1)
        ranked = np.take_along_axis(mass, order, axis=-1)
        # Mass that is still missing when a key's turn comes: the larger, the earlier it is read.
        missing = np.cumsum(ranked[..., ::-1], axis=-1)[..., ::-1]
        statistic = np.empty_like(mass)
        np.put_along_axis(statistic, order, np.log(np.maximum(missing, np.exp(_LOW))), axis=-1)
        histogram = ThresholdHistogram(_LOW, 0.0, 8192)
        histogram.add(
            statistic[None], scene.visible.start, scene.visible.stop, budget.pair_bytes / budget.full
        )
        theta = histogram.theta(share.sum(axis=1))
        reads = scene.take_above(statistic, np.repeat(theta, len(mass), axis=1))
        return Selection(reads, ~np.isnan(share[:, 0]), np.zeros(share.shape))
