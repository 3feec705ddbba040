"""Certified dropped mass while a model decodes: what is left out of each query holds at most delta, by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.codecs.nested import Nested, NestedRecords
from ghostkv.elimination.certificates import certify_mass
from ghostkv.elimination.compensation import cold_means, compensate
from ghostkv.elimination.ledger import Costs, Outcome
from ghostkv.elimination.nested_bounds import read_levels
from ghostkv.elimination.powers import Powers
from ghostkv.elimination.truth import Truth
from ghostkv.runtime.call_views import CallView, views
from ghostkv.runtime.deciders import Call, Decider
from ghostkv.runtime.seated import Ledger, combine

# Queries certified at once: bounds of every level are held for all of them.
_BLOCK = 64


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


@dataclass(frozen=True)
class CertifiedMass(Decider):
    """Read nested records level by level until what is left out certainly holds at most delta."""

    codecs: Sequence[Nested]  # one a KV head
    delta: float
    shares: Sequence[float]  # share of the budget that keys stopped at or before each level may take
    # Give the eliminated keys' estimated mass to the running mean of V; the certificate does not need it
    compensate: bool = True
    name: str = field(default="certified_mass", init=False)

    def start(self) -> NestedState:
        return NestedState()

    def attend(self, state: NestedState, call: Call) -> tuple[np.ndarray, np.ndarray]:
        out = np.zeros_like(call.empty())
        # K is stored as the record itself: all but V of the survivors is record.
        value_bytes = float(ELEMENT_BYTES * call.values.shape[3])
        counts = Ledger(call, value_bytes)
        certified, violated = np.zeros_like(counts.visible), np.zeros_like(counts.visible)
        self._append(state, call)
        for b, h, some, view in views(call, _BLOCK):
            outcome, scores, tail = self.certify(state, b, h, view)
            cold = view.visible.mask(len(view.keys))
            kept = outcome.kept & cold
            read = np.broadcast_to(kept.any(axis=0), kept.shape) if call.shared else kept
            result = combine(None, None, scores, read | ~cold, read, cold, view)
            if self.compensate:
                result = _compensated(result, scores, tail, read | ~cold, cold & ~read, view)
            out[b, some, h * call.group : (h + 1) * call.group] = result.transpose(1, 0, 2)
            full = view.visible.visible * call.pair
            hot = (view.visible.visible - view.visible.cold) * call.pair
            united, own = kept.any(axis=0).sum(axis=1), kept.sum(axis=(0, 2))
            records = outcome.group_nested * full - hot - united * value_bytes
            head_records = (outcome.bytes_nested * full - hot).sum(axis=0) - own * value_bytes
            counts.add(b, h, some, view.visible, kept, records, head_records)
            certified[b, h, some] = outcome.certified.max(axis=0)
            violated[b, h, some] = outcome.violated.sum(axis=0)
        return out, counts.rows(certified=certified, violated=violated)

    def certify(
        self, state: NestedState, b: int, h: int, view: CallView
    ) -> tuple[Outcome, np.ndarray, np.ndarray]:
        """What a KV head's queries keep; the exact scores; and estimates of the first level."""
        codec, keys = self.codecs[h], len(view.keys)
        records = _first_records(state.records[b, h], keys)
        shape = (*view.queries.shape[:2], keys)
        bounds = np.empty((2, len(codec.levels), *shape), np.float32)
        estimates, first = np.empty(shape, np.float32), None
        for _ in read_levels(codec, records, view.queries, view.scale, view.softcap, bounds, estimates):
            first = estimates.copy() if first is None else first
        scores = view.scores()
        truth = Truth.of(view.queries, view.keys, scores, None, view.visible, view.scale, 1)
        costs = Costs.of(
            codec.level_bytes[:-1], codec.level_bytes.sum(), view.keys.shape[1], view.values.shape[1]
        )
        powers = Powers.of(*bounds, truth)
        return certify_mass(*bounds, powers, truth, costs, self.shares, self.delta), scores, first

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


def _compensated(
    output: np.ndarray,
    scores: np.ndarray,
    estimates: np.ndarray,
    kept: np.ndarray,
    left: np.ndarray,
    view: CallView,
) -> np.ndarray:
    """Add the estimated mass of what was left out, on the mean of V over the cold keys."""
    peak = np.where(kept, scores, -np.inf).max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):
        mass = np.exp(np.where(kept, scores - peak, -np.inf)).sum(axis=-1, dtype=np.float64)
        tail = np.exp(np.where(left, estimates - peak, -np.inf)).sum(axis=-1, dtype=np.float64)
    means = cold_means(view.values, view.visible)
    return compensate(output * mass[..., None], mass, tail[..., None], means).astype(np.float32)
