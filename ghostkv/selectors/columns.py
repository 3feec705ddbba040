"""How an index is spent: the three columns that every selector is measured in.

`alone`: each query reads as many keys as its own share buys, and attends to them alone. `one_budget`: one threshold on
the estimated mass over all KV heads of a layer and all queries, so that bytes go where keys hold mass. `compensated`: the
same reads, and the estimated mass of the keys that are left goes to the running mean of V.

Query heads of a KV head decide together by the sum of their estimated masses: with exact scores no other set of as many
keys leaves less mass behind.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostkv.elimination.attention import cap
from ghostkv.selectors.base import (
    ALONE,
    COMPENSATED,
    Budget,
    Estimate,
    Scene,
    Selection,
    Selector,
    Spending,
    read_at,
)
from ghostkv.selectors.estimates import group_mass
from ghostkv.selectors.picking import ThresholdHistogram, threshold_counts

# Range of the statistic: log of a key's estimated share of the softmax over the uniform share.
LOWEST, HIGHEST = -20.0, 12.0
# Size of the account that unspent bytes are kept in, in mean allowances of a query.
_DEPTH = 1.0


@dataclass(frozen=True)
class Ranked:
    """An estimate, and in which order it would have the cold keys read."""

    estimate: Estimate  # scores are capped as the model caps
    # float32 [queries, tokens]; log of the mean share of the softmax that the heads' estimates give a key, over the uniform
    # share: read per byte, the key of largest share times visible keys is worth most, whatever the query. Of keys that are
    # not cold it means nothing.
    statistic: np.ndarray


def rank(selector: Selector, fitted: Any, scene: Scene) -> Ranked:
    """What a selector's index says of the cold keys; valid until the scene's next estimate."""
    estimate = selector.estimate(fitted, scene)
    if not estimate.capped:
        cap(estimate.scores, scene.softcap)
        if estimate.tail is not None:
            cap(estimate.tail, scene.softcap)
    mass = group_mass(estimate.scores, scene)
    mass += np.log(scene.visible.visible / scene.shape[0]).astype(np.float32)[:, None]
    return Ranked(estimate, mass)


class OneBudget:
    """Fits the one threshold of KV heads, of a layer or of a model, and the share of the budget that each spends under it."""

    def __init__(self, ratios: Sequence[float]):
        self.ratios = tuple(ratios)
        self._heads: dict[Hashable, ThresholdHistogram] = {}
        self._fixed: dict[Hashable, float] = {}
        self._queries: dict[Hashable, int] = {}

    def add(self, kv_head: Hashable, ranked: Ranked, scene: Scene, budget: Budget) -> None:
        """Count the cold keys of one KV head on one text."""
        estimate = ranked.estimate
        histogram = self._heads.setdefault(kv_head, ThresholdHistogram(LOWEST, HIGHEST))
        visible, price = scene.visible, (budget.pair_bytes + estimate.key_bytes) / budget.full
        histogram.add(ranked.statistic[None], visible.start, visible.stop, price)
        exact = (visible.visible - visible.cold) * budget.pair_bytes
        fixed = float(((exact + estimate.index_bytes) / budget.full).sum())
        self._fixed[kv_head] = self._fixed.get(kv_head, 0.0) + fixed
        self._queries[kv_head] = self._queries.get(kv_head, 0) + len(visible.last)

    def add_dense(self, kv_head: Hashable, queries: int) -> None:
        """Count one KV head that reads everything on one text."""
        self._fixed[kv_head] = self._fixed.get(kv_head, 0.0) + queries
        self._queries[kv_head] = self._queries.get(kv_head, 0) + queries

    @property
    def least(self) -> float:
        """Mean bytes ratio of what is read under any threshold."""
        return sum(self._fixed.values()) / sum(self._queries.values())

    def spending(self) -> dict[Hashable, Spending]:
        """Theta, the same for all, and share of every KV head that is not dense; theta is infinite out of reach."""
        every = ThresholdHistogram(LOWEST, HIGHEST)
        every.counts = sum(one.counts for one in self._heads.values())
        queries, fixed = sum(self._queries.values()), sum(self._fixed.values())
        left = [ratio * queries - fixed for ratio in self.ratios]
        theta = every.theta([total if total >= 0 else np.nan for total in left])[:, 0]
        return {
            head: Spending(theta, (self._fixed[head] + histogram.spent(theta)) / self._queries[head])
            for head, histogram in self._heads.items()
        }


def selections(
    selector: Selector, fitted: Any, scene: Scene, budget: Budget, spending: Spending | None = None
) -> Iterator[tuple[str, Selection]]:
    """What a selector reads in each of its columns; a selection is valid until the next.

    Parameters
    ----------
    spending : Spending, optional
        Of this KV head; for all columns but `alone` of a selector that estimates.
    """
    ranked = None
    for column in selector.columns:
        own = selector.select(fitted, scene, budget, column)
        if own is None:
            # What a selection of its own may overwrite is computed after it.
            ranked = rank(selector, fitted, scene) if ranked is None else ranked
            own = spend(ranked, scene, budget, column, spending)
        yield column, own


def spend(
    ranked: Ranked, scene: Scene, budget: Budget, column: str, spending: Spending | None = None
) -> Selection:
    """What is read in a column."""
    estimate, visible = ranked.estimate, scene.visible
    if column == ALONE:
        counts = budget.counts(budget.allowance(estimate.index_bytes), estimate.key_bytes)
        feasible = counts[:, 0] >= 0
    else:
        feasible = ~np.isnan(budget.allowance(estimate.index_bytes)[:, 0])
        # Where the head's own share covers no index, it reads what is always kept.
        own = budget.at(np.where(feasible, spending.shares, 0.0))
        share = np.nan_to_num(own.allowance(estimate.index_bytes) / budget.full)
        share[~feasible] = np.nan
        price = (budget.pair_bytes + estimate.key_bytes) / budget.full
        theta, cold = spending.theta[:, None], (visible.start, visible.stop)
        counts = threshold_counts(ranked.statistic[None], theta, share, price, _DEPTH, *cold)[:, 0]
    index = np.broadcast_to(np.asarray(estimate.index_bytes, float), counts.shape)
    index = index + np.maximum(counts, 0) * estimate.key_bytes
    return Selection(
        scene.take(ranked.statistic, counts),
        feasible,
        index,
        tail_of(ranked) if column == COMPENSATED else None,
    )


def above(ranked: Ranked, scene: Scene, theta: float, column: str) -> Selection:
    """What is read by a threshold alone, whatever it comes to; of one ratio."""
    queries, estimate = len(scene.visible.last), ranked.estimate
    reads = scene.take_above(ranked.statistic, np.full((1, queries), theta, np.float32))
    index = np.broadcast_to(np.asarray(estimate.index_bytes, float), (1, queries))
    index = index + read_at(reads, 0).sum(axis=1) * estimate.key_bytes
    return Selection(reads, np.ones(1, bool), index, tail_of(ranked) if column == COMPENSATED else None)


def tail_of(ranked: Ranked) -> np.ndarray:
    """Estimated scores that tail compensation uses."""
    return ranked.estimate.scores if ranked.estimate.tail is None else ranked.estimate.tail
