"""Twilight: a base selection, pruned to a share p of the mass that 4-bit keys estimate.

Card
----
Paper: Lin et al. 2025, "Twilight: adaptive attention sparsity with hierarchical top-p pruning".
Rule: a base selector, Quest here, names `candidates` of the cold keys; their 4-bit keys are read, one scale and zero
    a key; of the softmax of those scores every head keeps the fewest keys that hold a share p. A key that one head of
    a KV head keeps is read for all.
What differs: p is chosen per KV head and budget on texts of role `threshold` (the paper takes one per model), and an
    account makes the budget hard: a query that would overspend reads those whose turn comes first. Sinks and hot
    window are always kept, and their exact mass counts towards p. All layers are treated alike. With a fixed
    budget a query, `alone`, the candidates of largest estimated mass are read, which is no top-p. Where mass is
    estimated, it is by the 4-bit score of a candidate and by the middle of the page of any other key.
Index bytes: two fp16 vectors per page that holds a cold key, and of every candidate head_dim / 2 bytes and two fp16
    numbers, once per KV head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Annotated, Count, Field
from ghostkv.elimination.attention import cap
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import ALONE, COMPENSATED, Budget, Calibration, Scene, Selection, Selector
from ghostkv.selectors.estimates import group_mass, log_mass
from ghostkv.selectors.picking import ThresholdHistogram, threshold_counts
from ghostkv.selectors.quest import Quest, runs_with_cold

# Log of the missing mass below which all keys are alike.
_LOW = -24.0
# Score of a key that is no candidate; finite, so that differences are.
_NOTHING = np.float32(-1e4)


@dataclass(frozen=True)
class Twilight(Selector):
    """Read the candidates that hold a share p of the estimated mass."""

    page: Count = 32  # tokens per page of the base selection
    candidates: Annotated[float, Field(gt=0, le=1)] = 0.25  # share of the cold keys whose 4-bit keys are read

    budgeted: ClassVar[bool] = True

    def fit(self, calibration: Calibration) -> Any:
        """Least log of the missing mass at which a key is read, log(1 - p), of each ratio."""
        histogram, totals = ThresholdHistogram(_LOW, 0.0), 0.0
        for scene, budget in calibration.scenes:
            look, visible, price = self._look(scene), scene.visible, budget.pair_bytes / budget.full
            histogram.add(look.missing(scene)[None], visible.start, visible.stop, price)
            totals = totals + (budget.allowance(look.index_bytes) / budget.full).sum(axis=1)
        return histogram.theta(totals)[:, 0]

    def select(self, fitted: Any, scene: Scene, budget: Budget, column: str) -> Selection:
        look, visible = self._look(scene), scene.visible
        allowance = budget.allowance(look.index_bytes)
        if column == ALONE:
            counts, statistic = budget.counts(allowance), look.behind(group_mass(look.scores, scene))
        else:
            statistic, share = look.missing(scene), allowance / budget.full
            price, cold = budget.pair_bytes / budget.full, (visible.start, visible.stop)
            counts = threshold_counts(statistic[None], fitted[:, None], share, price, 1.0, *cold)[:, 0]
        index = np.broadcast_to(look.index_bytes, counts.shape)
        tail = look.tail if column == COMPENSATED else None
        return Selection(scene.take(statistic, counts), ~np.isnan(allowance[:, 0]), index, tail)

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        # One threshold, of the budget that is in use.
        return float(ELEMENT_BYTES)

    def _look(self, scene: Scene) -> _Look:
        """Choose candidates by the bound of their page, and read their 4-bit keys."""
        base = Quest(self.page).estimate(None, scene)
        by_page = group_mass(cap(base.scores, scene.softcap), scene)
        many = np.ceil(self.candidates * scene.visible.cold - 1e-9).astype(np.int64)
        chosen = scene.take(by_page, many[None]) != 0
        width = scene.keys.shape[1]
        index = runs_with_cold(scene.visible, self.page) * (2.0 * ELEMENT_BYTES * width)
        scores = cap(scene.score(scene.queries, four_bits(scene.keys)), scene.softcap)
        tail = np.where(chosen, scores, cap(base.tail, scene.softcap))
        scores[:, ~chosen] = _NOTHING
        return _Look(scores, tail, chosen, by_page, index + many * (width / 2 + 2 * ELEMENT_BYTES))


@dataclass(frozen=True)
class _Look:
    """What base selection and 4-bit keys say."""

    scores: np.ndarray  # float32 [group, queries, tokens]; of candidates alone
    tail: np.ndarray  # of all keys
    chosen: np.ndarray  # bool [queries, tokens]; candidates
    by_page: np.ndarray  # float32 [queries, tokens]; log mass by the bound of the page
    index_bytes: np.ndarray  # float64 [queries]

    def behind(self, statistic: np.ndarray) -> np.ndarray:
        """The same with all that are no candidates behind them, in the order of their pages."""
        return np.where(self.chosen, statistic, self.by_page + _NOTHING)

    def missing(self, scene: Scene) -> np.ndarray:
        """Log of the mass that is still missing when a candidate's turn comes, of the head that misses most."""
        shares = np.exp(log_mass(self.scores, scene))
        out = np.full(scene.shape[1:], _LOW, np.float32)
        _missing(shares, self.chosen, scene.visible.start, scene.visible.stop, out)
        return self.behind(out)


def four_bits(keys: np.ndarray) -> np.ndarray:
    """Keys in 16 levels between their own least and largest component, shape [tokens, head_dim]."""
    low = keys.min(axis=1, keepdims=True).astype(np.float16).astype(np.float32)
    step = ((keys.max(axis=1, keepdims=True) - low) / 15).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint((keys - low) / np.maximum(step, np.float32(1e-7))), 0, 15)
    return low + codes * step


@njit(cache=True, nogil=True, error_model="numpy")
def _missing(shares, chosen, start, stop, out):
    least = np.exp(np.float64(_LOW))
    for q in range(shares.shape[1]):
        inside = start[q] + np.flatnonzero(chosen[q, start[q] : max(stop[q], start[q])])
        for g in range(shares.shape[0]):
            order, total = inside[np.argsort(shares[g, q][inside])], 0.0
            for j in order:
                total += shares[g, q, j]
                out[q, j] = max(out[q, j], np.float32(np.log(max(total, least))))
