"""Ghost records: ours.

Card
----
Source: this lab; `methods` of docs/peers.md and docs of the sketch stage.
Rule: the query-aware transform code of the sketch stage (code and one byte of residual norm per key) gives an
    estimate ``s_hat`` of every cold key. A key is read when its estimated log mass ``s_hat - lse(known)``
    reaches theta, so that sharp queries read little and broad ones much. Theta is chosen per head on texts of
    role `threshold` such that the mean budget is spent, and a token bucket makes the budget hard on the text
    that is measured. The eliminated keys' estimated mass goes to the running mean of V
    (`ghostkv.elimination.compensation`), at no bytes per token; `page` > 0 uses a mean per page of that many keys, whose
    bytes are counted.
Index bytes: bits * head_dim / 8 + 1 per cold key, once per KV head; with page means 2 value_dim / page on top.
Calibration: codec and frame on role `codec` (as Loki's, Double Sparsity's and PQ's), theta on role
    `threshold` (as Token-Picker's and MagicPIG's).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.codecs.sizes import code_bytes
from ghostkv.codecs.transform_code import TransformCode
from ghostkv.config.options import Amount, CodeBits, Whole
from ghostkv.elimination.attention import cap
from ghostkv.selectors.base import Budget, Calibration, Scene, Selection, Selector, per_ratio
from ghostkv.selectors.estimates import log_mass
from ghostkv.selectors.picking import ThresholdHistogram, threshold_counts


@dataclass(frozen=True)
class Ghost(Selector):
    """Read the keys whose ghost record estimates enough mass."""

    kind: ClassVar[str] = "ours"

    bits: CodeBits = 1.0  # a coordinate; of the transform code
    compensate: bool = True  # give the eliminated keys' estimated mass to the mean of V
    # One theta per head over all queries; else a fixed number of keys per query, as most peers read
    adaptive: bool = True
    page: Whole = 0  # keys per mean of V; 0 for one running mean
    depth: Amount = 1.0  # size of the token bucket, in queries

    def record_spec(self, head_dim: int) -> tuple[str, int]:
        return TransformCode.name, code_bytes(self.bits, head_dim)

    def fit(self, calibration: Calibration) -> Any:
        """Thetas of each ratio and head, shape [ratios, group]."""
        if not self.adaptive:
            return None
        histogram, totals = ThresholdHistogram(-24.0, 0.0), 0.0
        for scene, budget in calibration.scenes:
            statistic, _ = self._log_mass(scene)
            histogram.add(statistic, scene.visible.start, scene.visible.stop, budget.price)
            totals = totals + self._share(scene, budget).sum(axis=1)
        return histogram.theta(totals)

    def select(self, fitted: Any, scene: Scene, budget: Budget) -> Selection:
        statistic, estimates = self._log_mass(scene)
        start, stop = scene.visible.start, scene.visible.stop
        share, group = self._share(scene, budget), scene.shape[0]
        if self.adaptive:
            counts = threshold_counts(statistic, fitted, share, budget.price, self.depth, start, stop)
        else:
            counts = budget.counts(share * budget.full, group)
        index = per_ratio(budget, group, self._index(scene, budget))
        feasible = ~np.isnan(share[:, 0])
        tail = estimates if self.compensate else None
        return Selection(scene.take(statistic, counts), feasible, index, tail=tail, page=self.page)

    def _index(self, scene: Scene, budget: Budget) -> np.ndarray:
        codec, _ = scene.records(*self.record_spec(scene.keys.shape[1]))
        index = scene.visible.cold * float(codec.record_bytes)
        if self.page and self.compensate:
            value_bytes = budget.pair_bytes - ELEMENT_BYTES * scene.keys.shape[1]
            index = index + -(-scene.visible.cold // self.page) * float(value_bytes)
        return index

    def _share(self, scene: Scene, budget: Budget) -> np.ndarray:
        return budget.allowance(self._index(scene, budget)) / budget.full

    def _log_mass(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Estimated log mass of cold keys, and their estimated scores."""
        codec, decoded = scene.records(*self.record_spec(scene.keys.shape[1]))
        estimates = scene.empty()
        projected = codec.project(scene.queries.reshape(-1, scene.queries.shape[2]))
        codec.estimate(projected, decoded, scene.scale, estimates.reshape(-1, scene.shape[2]))
        cap(estimates, scene.softcap)
        return log_mass(estimates, scene), estimates
