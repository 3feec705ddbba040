"""One KV head of one text up to a context length, ready to be scanned flat or with an index."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs.nested import Nested
from ghostkv.elimination.attention import cold_range, scores
from ghostkv.elimination.ledger import Costs
from ghostkv.elimination.nested_bounds import keep_in_full, read_levels
from ghostkv.elimination.truth import Truth

if TYPE_CHECKING:
    from ghostkv.stages.hierarchy.jobs import HierarchyLayer

# Queries are taken from the last eighth before a context length, or from its last quarter where that holds too few.
_LATE = (0.125, 0.25)


@dataclass(frozen=True)
class LateView:
    """One KV head of one text."""

    keys: np.ndarray  # float16, shape [context, head_dim]
    queries: np.ndarray  # float32, shape [group, queries, head_dim]
    # float32, shape [levels, group, queries, context]: bounds of scores once each level of the records is read; the
    # last is K itself, in float16 where the record's last planes do not reach.
    lower: np.ndarray
    upper: np.ndarray
    truth: Truth
    costs: Costs
    scale: float
    softcap: float
    grown_from: int  # cold keys that were there before the first query
    clusterings: dict = field(default_factory=dict)  # clusters that indexes of these keys share

    @cached_property
    def exact(self) -> np.ndarray:
        """Scores in float64, shape [group, queries, context]; -inf where a key is not cold."""
        found = self.queries.astype(np.float64) @ self.keys.astype(np.float64).T * self.scale
        if self.softcap:
            found = self.softcap * np.tanh(found / self.softcap)
        found[:, ~self.truth.visible.mask(found.shape[-1])] = -np.inf
        return found


def late_queries(capture: LayerCapture, context: int, count: int) -> np.ndarray:
    """Indices of at most `count` queries shortly before a context length, evenly spaced; may be none."""
    found = np.zeros(0, np.int64)
    for share in _LATE:
        low = context - round(share * context)
        found = np.flatnonzero((capture.positions >= low) & (capture.positions < context))
        if len(found) >= count:
            return found[np.linspace(0, len(found) - 1, count).round().astype(np.int64)]
    return found


def look(
    capture: LayerCapture, kv_head: int, codec: Nested, context: int, job: HierarchyLayer, count: int, space
) -> LateView | None:
    """The view of a KV head's late queries, or None where the text has none that see cold keys.

    Parameters
    ----------
    codec : Nested
        Fitted on other texts.
    context : int
        Keys beyond are left out.
    count : int
        Queries a head, at most.
    space : Space
        Where bounds go; they are valid until the next call.
    """
    late = late_queries(capture, context, count)
    if not len(late):
        return None
    seen = capture.at(late)
    visible = cold_range(seen.positions, seen.first_visible(), job.sinks, job.hot)
    if visible.cold.min() <= job.top_k:
        return None
    keys = capture.keys[kv_head, :context]
    queries = np.ascontiguousarray(seen.group_queries(kv_head))
    logits = scores(queries, keys.astype(np.float32), capture.scale, capture.softcap, visible)
    truth = Truth.of(queries, keys, logits, None, visible, capture.scale, job.top_k)
    lower, upper, escaped = _record_bounds(codec, keys, queries, capture, space)
    # A key beyond the range of the last planes, as positions beyond the calibration's make it, is kept in float16.
    keep_in_full(lower, upper, truth, escaped)
    value_dim = 0 if capture.values is None else capture.values.shape[2]
    costs = Costs.of(codec.level_bytes[:-1], codec.level_bytes.sum(), keys.shape[1], value_dim, escaped)
    return LateView(
        keys, queries, lower, upper, truth, costs, capture.scale, capture.softcap, int(visible.stop.min())
    )


def _record_bounds(
    codec: Nested, keys: np.ndarray, queries: np.ndarray, capture: LayerCapture, space
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intersected bounds of all levels, as the certificates use them, and keys that the last level does not bound."""
    shape, levels = (*queries.shape[:2], len(keys)), len(codec.levels)
    lower, upper = space.of("lower", (levels, *shape)), space.of("upper", (levels, *shape))
    estimates, records = space.of("estimates", shape), codec.encode(keys)
    for last in read_levels(
        codec,
        codec.decode_levels(records),
        queries,
        capture.scale,
        capture.softcap,
        (lower, upper),
        estimates,
    ):
        escaped = ~np.isfinite(last.radius)
    return lower, upper, escaped
