"""What a selector is: a rule that says which cold keys to read for a query, within a budget of bytes.

A selector is a frozen dataclass of hyperparameters. `fit` may learn from calibration text; `select` decides
for one KV head of one text. It sees the keys of the cache (what it may build an index from), the queries, the
exact scores of the keys that are always kept, and the attention of earlier queries. It does not see the exact
score of a cold key: the scene has none to give. Only a selector of kind `oracle` is handed the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from ghostkv.codecs import Codec, Decoded
from ghostkv.elimination.attention import ColdRange
from ghostkv.files.errors import CaptureError
from ghostkv.selectors.picking import find_nan, pick_above, pick_pages, pick_top, sum_left


@dataclass(frozen=True)
class Scene:
    """One KV head on one text, as a selector sees it.

    What `score`, `empty` and the `take` methods return is valid until the next call of the same kind: a fresh array
    of this size costs as much as filling it, so the scene keeps its own (`_scratch`, `_spare`, `_reads`).
    """

    # float32 [tokens, head_dim]; of which a selector may only use what its index stores, and the index bytes it
    # reports
    keys: np.ndarray
    queries: np.ndarray  # float32 [group, queries, head_dim]
    # The model's own
    scale: float
    softcap: float
    visible: ColdRange  # what each query sees, and what of it is cold
    # float32 [group, queries, tokens]; exact scores of sinks and hot window; -inf for all other keys
    known: np.ndarray
    # float32 [group, observations, tokens]; attention mass of sampled queries in order of position, for rules that
    # observe attention; the last ones are the queries of this scene
    earlier: np.ndarray
    # int64 [queries]; query i may look at observations 0..observed[i]-1: those before it
    observed: np.ndarray
    _scratch: np.ndarray
    _spare: np.ndarray
    _reads: np.ndarray
    layer: int
    first_head: int  # of the group
    # ``records(name, code_bytes)`` gives the sketch stage's codec and decoded ghost records of this text
    records: Callable[[str, int], tuple[Codec, Decoded]]
    # float32 [group, queries, tokens]; all exact scores; None unless the selector is an oracle
    scores: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.known.shape

    def score(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """``scale * q.k`` of any stand-ins for queries and keys, float32, shape [group, queries, tokens]."""
        out = self.empty()
        flat = np.ascontiguousarray(queries, np.float32).reshape(-1, queries.shape[-1])
        np.matmul(flat * np.float32(self.scale), keys.T, out=out.reshape(-1, out.shape[2]))
        return out

    @cached_property
    def known_lse(self) -> np.ndarray:
        """Log-sum-exp of the exact scores that are known, float32, shape [group, queries]."""
        peak = self.known.max(axis=-1)
        total = np.exp(self.known - peak[..., None]).sum(axis=-1, dtype=np.float64)
        return (peak + np.log(total)).astype(np.float32)

    def empty(self) -> np.ndarray:
        """An array to fill with estimates or priorities, float32, shape [group, queries, tokens]."""
        return self._scratch

    def take(self, priority: np.ndarray, counts: np.ndarray, recent: np.ndarray | None = None) -> np.ndarray:
        """Read the cold keys of highest priority, of equal ones the earliest; returns `Selection.reads`.

        Parameters
        ----------
        priority : ndarray, shape [group, queries, tokens] or one that broadcasts to it
        counts : ndarray of int64, shape [ratios, group, queries]
            How many; negative where nothing is feasible.
        recent : ndarray of int64, shape [ratios, queries], optional
            How many of them are simply the most recent ones.
        """
        reads, (start, stop) = self._no_reads(), (self.visible.start, self.visible.stop)
        if priority.shape != self.shape or priority.dtype != np.float32:
            self._scratch[...] = priority
            priority = self._scratch
        self._refuse_nan(priority)
        if recent is None:
            pick_top(priority, counts, start, stop, reads)
            return reads
        token = np.arange(self.shape[2])
        for r, window in enumerate(recent):
            edge = np.maximum(stop - window, start)
            newest = (token >= edge[:, None]) & (token < stop[:, None])
            reads |= newest.astype(np.uint8) << np.uint8(r)
            rest = np.full_like(counts, -1)
            rest[r] = counts[r] - window
            pick_top(priority, rest, start, edge, reads)
        return reads

    def take_above(self, statistic: np.ndarray, least: np.ndarray) -> np.ndarray:
        """Read the cold keys whose `statistic` [group, queries, tokens] reaches `least` [ratios, group, queries]."""
        self._refuse_nan(statistic)
        reads = self._no_reads()
        pick_above(statistic, least, self.visible.start, self.visible.stop, reads)
        return reads

    def take_pages(self, order: np.ndarray, counts: np.ndarray, page: int) -> np.ndarray:
        """Read whole pages in `order` [group, queries, pages], as long as `counts` [ratios, group, queries] holds one."""
        reads = self._no_reads()
        pick_pages(order, counts, self.visible.start, self.visible.stop, page, reads)
        return reads

    def left(self, reads: np.ndarray, mass: np.ndarray, ratios: int) -> np.ndarray:
        """The part of `mass` [group, queries, tokens] on cold keys that are not read, shape [ratios, group, queries]."""
        share = np.zeros((ratios, *self.shape[:2]), np.float32)
        sum_left(reads, mass, self.visible.start, self.visible.stop, share)
        return share

    def _refuse_nan(self, priority: np.ndarray) -> None:
        head, query = find_nan(priority, self.visible.start, self.visible.stop)
        if head >= 0:
            raise CaptureError(
                f"layer {self.layer}, head {self.first_head + head}: at position {int(self.visible.last[query]) - 1} a selector's "
                "score of a key is not a number, so no key is the best. Accepted: scores that float32 holds.\n"
                "  Write: dtype: float32 under model, or leave the layer out: layers: [...]"
            )

    def _no_reads(self) -> np.ndarray:
        self._reads[...] = 0
        return self._reads


@dataclass(frozen=True)
class Budget:
    """Bytes that a head may read: a share of the full fp16 K and V, as a mean over the queries of a text.

    The mean is what a server pays. With the same share for each query alone, an index would be out of reach
    at the first query of a text and affordable at the last.
    """

    ratios: tuple[float, ...]  # at most 8
    visible: ColdRange
    pair_bytes: int  # bytes of one key and one value

    @property
    def full(self) -> np.ndarray:
        """Bytes of the full K and V that each query would read, shape [queries]."""
        return self.visible.visible * float(self.pair_bytes)

    @property
    def price(self) -> np.ndarray:
        """What reading one key and value adds to a query's bytes ratio, shape [queries]."""
        return self.pair_bytes / self.full

    def allowance(self, index_bytes: np.ndarray | float = 0.0) -> np.ndarray:
        """Bytes left for cold keys after the keys that are always kept and the index.

        A query whose own share does not cover its index gets nothing, and the others pay what it lacks, each
        the same share of its full bytes.

        Returns
        -------
        ndarray of float64, shape [ratios, queries]
            NaN where index and kept keys alone exceed the whole budget.
        """
        exact = self.visible.visible - self.visible.cold
        fixed = exact * self.pair_bytes + np.broadcast_to(index_bytes, exact.shape)
        return np.stack([_level(ratio - fixed / self.full) * self.full for ratio in self.ratios])

    def counts(self, allowance: np.ndarray, group: int, key_bytes: float | None = None) -> np.ndarray:
        """Whole keys that an allowance buys each query; -1 where not feasible; int64 [ratios, group, queries].

        Parameters
        ----------
        allowance : ndarray, shape [ratios, queries]
        key_bytes : float, optional
            What reading one key costs; `pair_bytes` unless a method pays more.
        """
        keys = np.floor(allowance / (key_bytes or self.pair_bytes) + 1e-9)
        keys = np.where(np.isnan(keys), -1, np.minimum(keys, self.visible.cold)).astype(np.int64)
        return np.repeat(keys[:, None, :], group, axis=1)


def _level(slack: np.ndarray) -> np.ndarray:
    """The nearest non-negative amounts with the same sum as `slack`; NaN where that sum is negative."""
    total = slack.sum()
    if total <= 0:
        return np.full(slack.shape, np.nan if total < 0 else 0.0)
    ordered = np.sort(slack)[::-1]
    paid = (np.cumsum(ordered) - total) / np.arange(1, len(slack) + 1)
    return np.maximum(slack - paid[np.flatnonzero(ordered > paid)[-1]], 0.0)


@dataclass(frozen=True)
class Selection:
    """What a selector reads."""

    # uint8 [group, queries, tokens]; bit r: the key and its value are read at the r-th ratio. Only cold keys have
    # bits.
    reads: np.ndarray
    feasible: np.ndarray  # bool [ratios]; false where index and kept keys alone exceed the budget
    # float64 [ratios, group, queries]; everything read beside K and V of the keys in `reads` and of those always kept
    index_bytes: np.ndarray
    # float64 [ratios, queries]; the same for the group as a whole; by default the largest of its heads', as an index
    # of the KV head is read once for all
    index_bytes_gqa: np.ndarray | None = None
    # float32 [group, queries, tokens]; tail compensation by these estimated scores
    tail: np.ndarray | None = None
    page: int = 0  # keys per mean of V in the compensation; 0 for one running mean
    # float32 [ratios, group, queries]; a rule's own share of the output for the running mean of V (SparQ's)
    tail_share: np.ndarray | None = None
    # float32 [ratios, group, queries, tokens]; added to the exact scores of keys that are read (MagicPIG's importance
    # weights)
    log_weight: Sequence[np.ndarray] | None = None


@dataclass(frozen=True)
class Calibration:
    """Text that nothing is measured on."""

    keys: np.ndarray  # float32 [keys, head_dim]; keys of one KV head on texts of role `codec`
    queries: np.ndarray  # float32 [group, queries, head_dim]; queries of its heads on those texts
    scenes: Sequence[tuple[Scene, Budget]]  # texts of role `threshold`, for rules that spend a mean budget
    seed: int


@dataclass(frozen=True)
class Selector:
    """Base of all selectors; subclasses add hyperparameters as fields."""

    # Or "oracle", "ours", "extended": a peer with something that its paper does not have, shown and not counted as the peer.
    kind = "peer"

    @property
    def variant(self) -> str:
        """The hyperparameters, as tables name them: `dims=8`."""
        return ", ".join(f"{field.name}={_word(getattr(self, field.name))}" for field in fields(self))

    def record_spec(self, head_dim: int) -> tuple[str, int] | None:
        """Codec and bytes of code of the ghost records that it reads of keys of this width; None where it reads none."""

    def fit(self, calibration: Calibration) -> Any:
        """Learn what is fixed before a text is seen; model constants cost no bytes per key."""
        return None

    def select(self, fitted: Any, scene: Scene, budget: Budget) -> Selection:
        """Which cold keys each head reads for each query at each ratio."""
        raise NotImplementedError


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def read_best(
    priority: np.ndarray,
    scene: Scene,
    budget: Budget,
    index_bytes: np.ndarray | float = 0.0,
    key_bytes: float = 0.0,
    recent: float = 0.0,
) -> Selection:
    """Spend each query's own budget on the keys of highest priority; most selectors end here.

    Parameters
    ----------
    priority : ndarray, shape [group, queries, tokens] or one that broadcasts to it
    key_bytes : float
        Metadata read with every key that is read.
    recent : float
        Share of the keys read that are simply the most recent ones.
    """
    group = scene.shape[0]
    counts = budget.counts(budget.allowance(index_bytes), group, budget.pair_bytes + key_bytes)
    window = np.maximum((recent * counts[:, 0]).astype(np.int64), 0) if recent else None
    reads = scene.take(priority, counts, window)
    index = per_ratio(budget, group, index_bytes) + np.maximum(counts, 0) * key_bytes
    return Selection(reads, counts[:, 0, 0] >= 0, index)


def read_at(reads: np.ndarray, ratio: int) -> np.ndarray:
    """The keys of `Selection.reads` that are read at a ratio, bool, shape [group, queries, tokens]."""
    return (reads & np.uint8(1 << ratio)) != 0


def per_ratio(budget: Budget, group: int, index_bytes: np.ndarray | float) -> np.ndarray:
    """Index bytes that are the same for every ratio and head, as `Selection.index_bytes`."""
    shape = (len(budget.ratios), group, len(budget.visible.last))
    return np.broadcast_to(np.asarray(index_bytes, np.float64), shape)
