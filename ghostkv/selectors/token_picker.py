"""Token-Picker: read keys a chunk of bits at a time, and stop as soon as they cannot matter.

Card
----
Paper: Park et al. 2024, "Token-Picker: accelerating attention in text generation with minimized memory
    transfer via probability estimation".
Rule: keys lie in memory as bit planes of a fixed-point code. The first chunk of every key is read; with it
    the score is known up to a margin that depends on the query alone. A key whose probability cannot reach a
    threshold is dropped, for the others the next chunk is read; V is read for those that survive all chunks.
What differs: one scale per channel, from role `codec`, instead of one per tensor (which favours it). The
    paper's margin is the worst case, `slack` = 1; at the budgets here the worst case keeps nearly every key
    after the first chunk, so `slack` scales it. The threshold is chosen per head and budget on texts of role
    `threshold`, and a token bucket makes the budget hard. Heads of a KV head decide together, by the sum of the
    shares that their bounds would have; a chunk is read once for all of them. Its threshold is one of a KV head, in every
    column; with a fixed budget a query, `alone`, there is no bucket. Mass of keys that are left is estimated from the
    middle of the cell that the first chunk leaves.
Index bytes: every chunk read. Chunks are part of the stored key, so a key that survives costs its 12 bits a
    channel and not 16 more; the difference is credited.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Amount, Annotated, Field
from ghostkv.elimination.attention import cap
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import ALONE, COMPENSATED, Budget, Calibration, Scene, Selection, Selector
from ghostkv.selectors.estimates import log_mass
from ghostkv.selectors.picking import ThresholdHistogram

# Range of the logs of shares that thresholds lie in.
LOW, HIGH = -24.0, 12.0


@dataclass(frozen=True)
class TokenPicker(Selector):
    """Read keys in chunks of bits, as long as they may matter."""

    # Bits per channel of each chunk
    chunks: Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], Field(min_length=1, max_length=16)] = (
        4,
        4,
        4,
    )
    slack: Amount = 0.2  # share of the worst-case margin that is added to an estimate
    depth: Amount = 1.0  # size of the token bucket, in queries

    budgeted: ClassVar[bool] = True

    def fit(self, calibration: Calibration) -> Any:
        """Least value and range of each channel, and thetas of each ratio and head."""
        low, high = calibration.keys.min(axis=0), calibration.keys.max(axis=0)
        scale = low, np.maximum(high - low, 1e-6)
        histogram, totals = ThresholdHistogram(LOW, HIGH), 0.0
        for scene, budget in calibration.scenes:
            costs = self._costs(scene, budget)
            for bound, cost in zip(self._bounds(scene, scale), costs[1:], strict=True):
                histogram.add(bound[None], scene.visible.start, scene.visible.stop, cost / budget.full)
            totals = totals + self._share(scene, budget, costs).sum(axis=1)
        return scale, histogram.theta(totals)[:, 0]

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        return float(2 * ELEMENT_BYTES * fitted[0][0].size)

    def select(self, fitted: Any, scene: Scene, budget: Budget, column: str) -> Selection:
        scale, theta = fitted
        costs = self._costs(scene, budget)
        share = self._share(scene, budget, costs)
        bounds = tuple(self._bounds(scene, scale))
        start, stop, depth = scene.visible.start, scene.visible.stop, 0.0 if column == ALONE else self.depth
        spent, kept, cut = progress(bounds, costs[1:], budget.full, theta, share, depth, start, stop)
        index = spent + scene.visible.cold * costs[0] - kept * budget.pair_bytes
        tail = None
        if column == COMPENSATED:
            tail = cap(scene.score(scene.queries, self._middle(scene, scale, self.chunks[0])), scene.softcap)
        return Selection(scene.take_above(bounds[-1], cut), ~np.isnan(share[:, 0]), index, tail=tail)

    def _costs(self, scene: Scene, budget: Budget) -> np.ndarray:
        """Bytes of each chunk of one key, and of one value."""
        width = scene.keys.shape[1]
        return np.array(
            [width * bits / 8 for bits in self.chunks] + [budget.pair_bytes - ELEMENT_BYTES * width]
        )

    def _share(self, scene: Scene, budget: Budget, costs: np.ndarray) -> np.ndarray:
        return budget.allowance(scene.visible.cold * costs[0]) / budget.full

    def _middle(self, scene: Scene, scale: tuple[np.ndarray, np.ndarray], bits: int) -> np.ndarray:
        """The middle of the cell that so many bits of every component leave, shape [tokens, head_dim]."""
        low, span = scale
        unit, cells = np.clip((scene.keys - low) / span, 0.0, 1.0 - 1e-6), np.float32(1 << bits)
        return low + span * ((np.floor(unit * cells) + np.float32(0.5)) / cells)

    def _bounds(self, scene: Scene, scale: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        """Log of the share that a key may still reach, mean over the heads, after each chunk; never growing."""
        bounds, bits = [], 0
        for chunk in self.chunks:
            bits += chunk
            estimate = log_mass(
                cap(scene.score(scene.queries, self._middle(scene, scale, bits)), scene.softcap), scene
            )
            margin = (np.abs(scene.queries) @ scale[1]) * (scene.scale / (2 * np.float32(1 << bits)))
            bound = estimate + np.float32(self.slack) * margin[..., None]
            peak = bound.max(axis=0)
            bound = peak + np.log(np.exp(bound - peak).mean(axis=0))
            bounds.append(np.minimum(bound, bounds[-1]) if bounds else bound)
        return bounds


@njit(cache=True, nogil=True, error_model="numpy")
def progress(bounds, costs, full, theta, share, depth, start, stop):
    """Read chunk by chunk under a threshold that may not overspend; returns bytes, values read and thresholds.

    The last element of `bounds` decides on V, the ones before on the next chunk.
    """
    rounds, queries, budgets = len(bounds), len(bounds[0]), share.shape[0]
    spent = np.zeros((budgets, queries))
    kept = np.zeros((budgets, queries))
    cuts = np.full((budgets, queries), np.inf)
    cells = np.empty(512)
    for r in range(budgets):
        room = depth * share[r].mean()
        credit = 0.0
        for q in range(queries):
            if np.isnan(share[r, q]):
                continue
            # With no bucket nothing is kept for later queries.
            credit = share[r, q] + (credit if depth > 0 else 0.0)
            first, last = start[q], max(stop[q], start[q])
            wide = credit > room
            least = np.float32(LOW) if wide else theta[r]
            step = np.float32((HIGH - least) / cells.size)
            limit = max(credit, 0.0) * full[q]
            # Bytes by threshold: the lowest one not below `least` that the bucket can pay.
            cells[:] = 0
            for i in range(rounds):
                row = bounds[i][q, first:last]
                for j in range(row.size):
                    if row[j] >= least:
                        cell = min(np.int64((row[j] - least) / step), cells.size - 1)
                        cells[cell] += costs[i]
            total, cell = 0.0, cells.size
            while cell > 0 and total + cells[cell - 1] <= limit:
                cell -= 1
                total += cells[cell]
            # An overflowing bucket lowers the threshold only as far as what overflows.
            cut = least + step * cell
            if wide and cut < theta[r]:
                cut = _overflow(cells, least, step, cell, theta[r], (credit - room) * full[q])
            total = 0.0
            for i in range(rounds):
                row = bounds[i][q, first:last]
                for j in range(row.size):
                    total += costs[i] * (row[j] >= cut)
            if total > limit:
                continue
            row = bounds[rounds - 1][q, first:last]
            for j in range(row.size):
                kept[r, q] += row[j] >= cut
            cuts[r, q] = cut
            spent[r, q] = total
            credit -= total / full[q]
    return spent, kept, cuts


@njit(cache=True, nogil=True, error_model="numpy")
def _overflow(cells, least, step, lowest, theta, excess):
    """The highest threshold at or below theta that spends at least `excess`, not below cell `lowest`."""
    total, cell = 0.0, cells.size
    while cell > lowest:
        above = least + step * cell
        if above <= theta and total >= excess:
            return above
        cell -= 1
        total += cells[cell]
    return least + step * cell
