"""Certified dropped mass while a model decodes: what is left out of each query holds at most delta, by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.codecs.nested import Nested, NestedRecords
from ghostkv.elimination.certificates import certify_mass
from ghostkv.elimination.compensation import inexactness, output_bound
from ghostkv.elimination.ledger import Costs, Outcome
from ghostkv.elimination.nested_bounds import keep_in_full, read_levels
from ghostkv.elimination.powers import Powers
from ghostkv.elimination.truth import Truth
from ghostkv.files.compiled import njit
from ghostkv.runtime.call_views import CallView, views
from ghostkv.runtime.combine import Combined, combine
from ghostkv.runtime.deciders import Call, Decider, refuse_misfit
from ghostkv.runtime.ledger import Ledger

# Queries certified at once: bounds of every level are held for all of them.
_BLOCK = 64
# What float32 sums and exponentials may add to an output, over the norms that go into it.
_ROUNDING = 2.0**-16


@dataclass
class NestedState:
    """Nested records by row and KV head; they grow as tokens are appended."""

    records: dict[tuple[int, int], NestedRecords] = field(default_factory=dict)
    first: np.ndarray | None = None

    def truncate(self, tokens: int) -> None:
        """Forget records from `tokens` on."""
        self.records = {
            (b, h): _first_records(found, max(tokens - int(self.first[b]), 0))
            for (b, h), found in self.records.items()
        }

    def select(self, rows: np.ndarray) -> None:
        """Go on with these rows of the batch."""
        self.first = self.first[rows]
        heads = {h for _, h in self.records}
        self.records = {(b, h): self.records[int(row), h] for b, row in enumerate(rows) for h in heads}


class Stored(NamedTuple):
    """Scores of K as it is stored: the middles of their last bounds, and what they are off at most; [group, queries, keys].

    Sinks and hot window are exact.
    """

    scores: np.ndarray
    margins: np.ndarray

    @classmethod
    def of(cls, lower: np.ndarray, upper: np.ndarray, exact: np.ndarray, cold: np.ndarray) -> Stored:
        """From the last bounds of cold keys, bool [queries, keys], and exact scores."""
        middle, margin = (lower + upper) * np.float32(0.5), (upper - lower) * np.float32(0.5)
        return cls(np.where(cold, middle, exact), np.where(cold, margin, np.float32(0.0)))


@dataclass(frozen=True)
class CertifiedMass(Decider):
    """Read nested records level by level until what is left out certainly holds at most delta."""

    codecs: Sequence[Nested]  # one a KV head
    delta: float
    shares: Sequence[float]  # share of the budget that keys stopped at or before each level may take
    # Give the eliminated keys' estimated mass to the running mean of V; the certified output is the compensated one
    compensate: bool = True
    name: str = field(default="certified_mass", init=False)

    def start(self) -> NestedState:
        return NestedState()

    def check(self, heads: int, kv_heads: int, head_dim: int, where: str) -> None:
        refuse_misfit(
            where, (heads, len(self.codecs), len(self.codecs[0].mean_)), (heads, kv_heads, head_dim)
        )

    @property
    def kv_heads(self) -> int:
        return len(self.codecs)

    def part(self, kv_heads: Sequence[int]) -> CertifiedMass:
        return replace(self, codecs=[self.codecs[head] for head in kv_heads])

    def attend(self, state: NestedState, call: Call) -> tuple[np.ndarray, np.ndarray]:
        call.refuse_unfit()
        out = np.zeros_like(call.empty())
        # K is stored as the record itself: all but V of the survivors is record.
        value_bytes = float(ELEMENT_BYTES * call.values.shape[3])
        counts = Ledger(call, value_bytes)
        certified, violated = np.zeros_like(counts.visible), np.zeros_like(counts.visible)
        self._append(state, call)
        for b, h, some, view in views(call, _BLOCK):
            outcome, truth, estimates, stored = self.certify(state, b, h, view)
            cold = view.visible.mask(len(view.keys))
            kept = outcome.kept & cold
            read = np.broadcast_to(kept.any(axis=0), kept.shape) if call.shared else kept
            tail = estimates if self.compensate else None
            result = combine(stored.scores, read | ~cold, cold & ~read, view, tail)
            out[b, some, h * call.group : (h + 1) * call.group] = result.output.transpose(1, 0, 2)
            full = view.visible.visible * call.pair
            hot = (view.visible.visible - view.visible.cold) * call.pair
            united, own = kept.any(axis=0).sum(axis=1), kept.sum(axis=(0, 2))
            records = outcome.group_nested * full - hot - united * value_bytes
            head_records = (outcome.bytes_nested * full - hot).sum(axis=0) - own * value_bytes
            counts.add(b, h, some, view.visible, kept, records, head_records)
            certified[b, h, some] = outcome.certified.max(axis=0)
            broken = outcome.violated.astype(bool) | _beyond_bound(
                result, truth, outcome, stored, read | ~cold
            )
            violated[b, h, some] = broken.sum(axis=0)
        call.refuse_unfit(call.keys.shape[2], out)
        return out, counts.rows(certified=certified, violated=violated)

    def certify(
        self, state: NestedState, b: int, h: int, view: CallView
    ) -> tuple[Outcome, Truth, np.ndarray, Stored]:
        """What a KV head's queries keep; exact attention; the estimates of what they leave; and scores of K as it is stored."""
        codec, keys = self.codecs[h], len(view.keys)
        records = _first_records(state.records[b, h], keys)
        shape = (*view.queries.shape[:2], keys)
        bounds = np.empty((2, len(codec.levels), *shape), np.float32)
        estimates = np.empty(shape, np.float32)
        levels = codec.decode_levels(records)
        for known in read_levels(codec, levels, view.queries, view.scale, view.softcap, bounds, estimates):
            escaped = ~np.isfinite(known.radius)
        scores = view.scores()
        truth = Truth.of(view.queries, view.keys, scores, view.values, view.visible, view.scale, 1)
        costs = Costs.of(
            codec.level_bytes[:-1], codec.level_bytes.sum(), view.keys.shape[1], view.values.shape[1], escaped
        )
        keep_in_full(*bounds, truth, escaped)
        powers = Powers.of(*bounds, truth)
        outcome = certify_mass(*bounds, powers, truth, costs, self.shares, self.delta, together=True)
        _middle(*bounds, outcome.levels, estimates)
        return outcome, truth, estimates, Stored.of(*bounds[:, -1], truth.scores, view.visible.mask(keys))

    def _append(self, state: NestedState, call: Call) -> None:
        state.first = call.first
        for b in range(len(call.first)):
            begin = int(call.first[b])
            for h, codec in enumerate(self.codecs):
                found = state.records.get((b, h))
                written = 0 if found is None else len(found)
                new = call.keys[b, h, begin + written :]
                if len(new):
                    added = codec.encode(new)
                    state.records[b, h] = added if found is None else _joined(found, added)


def _first_records(records: NestedRecords, keys: int) -> NestedRecords:
    return NestedRecords(tuple(plane[:keys] for plane in records.planes), records.rho[:keys])


def _joined(one: NestedRecords, other: NestedRecords) -> NestedRecords:
    planes = tuple(np.concatenate(pair) for pair in zip(one.planes, other.planes, strict=True))
    return NestedRecords(planes, np.concatenate([one.rho, other.rho]))


@njit(cache=True, nogil=True, error_model="numpy")
def _middle(lower, upper, levels, out):
    """Estimates of the keys that are left: the middle of their bounds when they were."""
    for g in range(levels.shape[0]):
        for q in range(levels.shape[1]):
            for j in range(levels.shape[2]):
                level = levels[g, q, j]
                if level > 0:
                    out[g, q, j] = (lower[level - 1, g, q, j] + upper[level - 1, g, q, j]) * np.float32(0.5)


def _beyond_bound(
    result: Combined, truth: Truth, outcome: Outcome, stored: Stored, read: np.ndarray
) -> np.ndarray:
    """Heads and queries whose output is further from exact attention than was certified, bool [group, queries]."""
    error = np.linalg.norm(truth.outputs - result.output, axis=-1)
    scores = np.where(read, stored.scores, np.float32(-np.inf))
    off = inexactness(scores, stored.margins, truth.values, result.read)
    bound = output_bound(outcome.certified, result.share, truth.largest, result.read, truth.means, off)
    sizes = np.linalg.norm(truth.outputs, axis=-1) + np.linalg.norm(truth.values, axis=-1).max()
    # "not <=", so that what is not a number counts.
    return ~(error <= bound + _ROUNDING * sizes)
