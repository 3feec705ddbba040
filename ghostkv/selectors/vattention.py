"""vAttention: heavy hitters exactly, the rest by a uniform sample whose size a central limit theorem gives.

Card
----
Paper: Desai et al. 2025, "vAttention: verified sparse attention" (arXiv 2510.05688).
Rule: sinks, the hot window and the keys of best estimated score are read. Of the n others a uniform sample is read, and each
    sampled key counts n / b times. A base sample gives the spread of their weights, sigma, and with it the size b
    at which the softmax's denominator D is within a factor 1 +- eps with probability 1 - delta:
    ``b = (z n sigma / (eps D))^2``, with z the quantile of the normal distribution at 1 - delta / 2.
What differs: heavy hitters come from a label cache of `channels` channels in 4 bits, which is Double Sparsity's (the paper has
    an oracle or HashAttention). Only the denominator is verified, as in the paper's experiments. A budget fixes eps / z
    and not eps: it is chosen per KV head and budget on texts of role `threshold`, so that the sizes that it asks for fit,
    and a token bucket makes the budget hard. Heavy hitters get the share `heavy` of what a query's own budget buys, in
    every column. Heads of a KV head share heavy hitters and sample, and the head that asks for the most sets the size.
Columns: `alone` samples whatever its fixed number of keys leaves, without eps. `one_budget` is the paper's rule;
    each KV head has the same budget. The estimator counts the mass of keys that are left by itself,
    so `compensated` repeats it.
Index bytes: `channels` / 2 per cold key, once per KV head. A uniform sample needs no index.
Calibration: channels and scales on texts of role `codec`, eps / z on texts of role `threshold`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ghostkv.config.options import Count, Part, Width
from ghostkv.elimination.attention import cap
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import ALONE, Budget, Calibration, Scene, Selection, Selector
from ghostkv.selectors.columns import rank
from ghostkv.selectors.double_sparsity import DoubleSparsity

# Size of the account of unspent bytes, in mean allowances of a query, as for thresholds.
_DEPTH = 1.0
# Halvings of the range of eps / z, and that range.
_STEPS, _LEAST, _MOST = 50, 1e-6, 1e3


class _Split(NamedTuple):
    """Heavy hitters and the others."""

    reads: np.ndarray  # uint8 [queries, tokens]; bits of the heavy hitters
    order: np.ndarray  # int64 [queries, tokens]; cold keys as they are sampled
    heavy: np.ndarray  # int64 [ratios, queries]; how many are heavy; -1 where not feasible
    asked: np.ndarray  # float64 [ratios, queries]; sample size at eps / z = 1
    share: np.ndarray  # float64 [ratios, queries]; allowance over full bytes
    price: np.ndarray  # float64 [queries]; one key over full bytes
    index: float  # bytes per cold key

    def sizes(self, cold: np.ndarray, base: int, error: np.ndarray) -> np.ndarray:
        """Sample sizes that an eps / z of each ratio asks for, float64 [ratios, queries]."""
        left = cold - np.maximum(self.heavy, 0)
        return np.minimum(np.maximum(np.ceil(self.asked / error[:, None] ** 2), base), left)


@dataclass(frozen=True)
class VAttention(Selector):
    """Read the heavy hitters, and a verified sample of the rest."""

    channels: Width = 8  # channels in the label cache
    heavy: Part = 0.5  # share of the affordable keys that are heavy hitters
    base: Count = 16  # keys that the spread is estimated from

    def fit(self, calibration: Calibration) -> Any:
        """Label cache, seed of the samples, and eps / z of each ratio."""
        index, seed = DoubleSparsity(self.channels).fit(calibration), calibration.seed
        splits, colds = [], []
        for scene, budget in calibration.scenes:
            splits.append(self._split(index, seed, scene, budget))
            colds.append(scene.visible.cold)
        ratios = len(splits[0].share)
        low, high = np.full(ratios, np.log(_LEAST)), np.full(ratios, np.log(_MOST))
        for _ in range(_STEPS):
            middle = (low + high) / 2
            over = 0.0
            for split, cold in zip(splits, colds, strict=True):
                read = np.maximum(split.heavy, 0) + split.sizes(cold, self.base, np.exp(middle))
                over = over + (read * split.price - np.nan_to_num(split.share)).sum(axis=1)
            low, high = np.where(over > 0, middle, low), np.where(over > 0, high, middle)
        return index, seed, np.exp(high)

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        return DoubleSparsity(self.channels).constant_bytes(fitted[0], scene)

    def select(self, fitted: Any, scene: Scene, budget: Budget, column: str) -> Selection:
        index, seed, error = fitted
        split, cold = self._split(index, seed, scene, budget), scene.visible.cold
        sizes = split.sizes(cold, self.base, error)
        total = budget.counts(split.share * budget.full) if column == ALONE else _bucket(split, sizes, cold)
        sampled = np.where(split.heavy >= 0, total - split.heavy, 0)
        reads = split.reads
        weights = np.zeros((len(total), *reads.shape), np.float32)
        _sample(split.order, cold, split.heavy, sampled, reads, weights)
        feasible = split.heavy[:, 0] >= 0
        every = [np.repeat(one[None], scene.shape[0], axis=0) for one in weights]
        spent = np.broadcast_to(cold * split.index, total.shape)
        return Selection(reads, feasible, spent, log_weight=every)

    def _split(self, index: Any, seed: int, scene: Scene, budget: Budget) -> _Split:
        ranked = rank(DoubleSparsity(self.channels), index, scene)
        labels = ranked.estimate.index_bytes
        allowance = budget.allowance(labels)
        affordable = budget.counts(allowance)
        heavy = np.where(affordable < 0, -1, np.floor(self.heavy * affordable).astype(np.int64))
        reads = scene.take(ranked.statistic, heavy).copy()
        visible = scene.visible
        order = np.zeros(scene.shape[1:], np.int64)
        for q, cold in enumerate(visible.cold):
            # Another sample at another position, the same whichever queries a scene holds.
            rng = np.random.default_rng([seed, int(visible.last[q])])
            order[q, :cold] = visible.start[q] + rng.permutation(cold)
        # Of these, the heavy hitters' and the base sample's are used: keys that are read.
        exact = cap(scene.score(scene.queries, scene.keys), scene.softcap)
        asked = np.zeros(heavy.shape)
        _ask(exact, scene.known_lse, reads, order, visible.cold, heavy, self.base, asked)
        per_key = float(np.max(labels / np.maximum(visible.cold, 1)))
        return _Split(
            reads, order, heavy, asked, allowance / budget.full, budget.pair_bytes / budget.full, per_key
        )


def _bucket(split: _Split, sizes: np.ndarray, cold: np.ndarray) -> np.ndarray:
    """Keys that each query reads when it may spend what earlier ones left; int64 [ratios, queries]."""
    total = np.full(split.heavy.shape, -1, np.int64)
    for r in np.flatnonzero(split.heavy[:, 0] >= 0):
        credit = given = 0.0
        for q, price in enumerate(split.price):
            credit += split.share[r, q]
            given += split.share[r, q]
            room = _DEPTH * given / (q + 1)
            wanted = max(split.heavy[r, q] + sizes[r, q], np.ceil((credit - room) / price))
            total[r, q] = int(min(wanted, np.floor(credit / price + 1e-9), cold[q]))
            credit -= total[r, q] * price
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _ask(exact, known, reads, order, cold, heavy, base, asked):
    """Largest sample size of any head at eps / z = 1: the square of ``n sigma / D``."""
    group = exact.shape[0]
    for r in range(heavy.shape[0]):
        bit = np.uint8(1 << r)
        for q in range(order.shape[0]):
            left = cold[q] - heavy[r, q]
            if heavy[r, q] < 0 or left < 1:
                continue
            for g in range(group):
                # Weights relative to the largest that has been read, which cancels.
                top, seen = known[g, q], 0
                for i in range(cold[q]):
                    j = order[q, i]
                    if reads[q, j] & bit or seen < base:
                        top = max(top, exact[g, q, j])
                        seen += (reads[q, j] & bit) == 0
                total, mean, square, seen = np.exp(np.float64(known[g, q] - top)), 0.0, 0.0, 0
                for i in range(cold[q]):
                    j = order[q, i]
                    if reads[q, j] & bit:
                        total += np.exp(np.float64(exact[g, q, j] - top))
                    elif seen < base:
                        weight = np.exp(np.float64(exact[g, q, j] - top))
                        mean += weight
                        square += weight * weight
                        seen += 1
                mean /= seen
                variance = max(square / seen - mean * mean, 0.0)
                if seen > 1:
                    variance *= seen / (seen - 1)
                size = left * left * variance / (total + left * mean) ** 2
                asked[r, q] = max(asked[r, q], size)


@njit(cache=True, nogil=True, error_model="numpy")
def _sample(order, cold, heavy, sampled, reads, weights):
    """Add the first `sampled` others to `reads`, each with the log of how many keys it stands for."""
    for q in range(order.shape[0]):
        before = reads[q].copy()
        for r in range(sampled.shape[0]):
            bit, taken = np.uint8(1 << r), 0
            if sampled[r, q] <= 0:
                continue
            stands = np.log((cold[q] - heavy[r, q]) / sampled[r, q])
            for i in range(cold[q]):
                j = order[q, i]
                if taken < sampled[r, q] and not before[j] & bit:
                    reads[q, j] |= bit
                    weights[r, q, j] = stands
                    taken += 1
