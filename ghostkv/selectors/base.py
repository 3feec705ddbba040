"""What a selector is: a rule that says which cold keys to read for a query, within a budget of bytes.

A selector is a frozen dataclass of hyperparameters. `fit` may learn from calibration text; `estimate` says for one KV
head of one text what the index knows of every cold key, and what that costs. Which keys are then read is decided in the
same way for all of them (`ghostkv.selectors.columns`); a selector whose paper decides otherwise overrides `select`.

It sees the keys of the cache (what it may build an index from), the queries, the exact scores of the keys that are
always kept, and the attention of earlier queries. It does not see the exact score of a cold key: the scene has none to
give. Only a selector of kind `oracle` is handed the scores.

The query heads of a KV head decide together: a key that is read is read once, for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from ghostkv.codecs import Codec, Decoded
from ghostkv.elimination.attention import ColdRange
from ghostkv.files.errors import CaptureError
from ghostkv.selectors.picking import find_nan, pick_above, pick_top

# How an index is spent: a fixed number of keys a query and their softmax alone; one threshold for all KV heads of a layer
# and all queries; and with the estimated mass of the keys that are left on the mean of V.
ALONE, ONE_BUDGET, COMPENSATED = COLUMNS = ("alone", "one_budget", "compensated")


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
    _reads: np.ndarray  # uint8 [queries, tokens]
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
        priority : ndarray of float32, shape [queries, tokens]
        counts : ndarray of int64, shape [ratios, queries]
            How many; negative where nothing is feasible.
        recent : ndarray of int64, shape [ratios, queries], optional
            How many of them are simply the most recent ones.
        """
        reads, (start, stop) = self._no_reads(), (self.visible.start, self.visible.stop)
        priority = np.ascontiguousarray(np.broadcast_to(priority, reads.shape), np.float32)
        self._refuse_nan(priority)
        if recent is None:
            pick_top(priority[None], counts[:, None], start, stop, reads[None])
            return reads
        token = np.arange(self.shape[2])
        for r, window in enumerate(recent):
            edge = np.maximum(stop - window, start)
            newest = (token >= edge[:, None]) & (token < stop[:, None])
            reads |= newest.astype(np.uint8) << np.uint8(r)
            rest = np.full_like(counts, -1)
            rest[r] = counts[r] - window
            pick_top(priority[None], rest[:, None], start, edge, reads[None])
        return reads

    def take_above(self, statistic: np.ndarray, least: np.ndarray) -> np.ndarray:
        """Read the cold keys whose `statistic` [queries, tokens] reaches `least` [ratios, queries]."""
        self._refuse_nan(statistic)
        reads = self._no_reads()
        pick_above(statistic[None], least[:, None], self.visible.start, self.visible.stop, reads[None])
        return reads

    def _refuse_nan(self, priority: np.ndarray) -> None:
        _, query = find_nan(priority[None], self.visible.start, self.visible.stop)
        if query >= 0:
            last = self.first_head + self.shape[0] - 1
            raise CaptureError(
                f"layer {self.layer}, heads {self.first_head} to {last}: at position {int(self.visible.last[query]) - 1} a selector's "
                "score of a key is not a number, so no key is the best. Accepted: scores that float32 holds.\n"
                "  Write: dtype: float32 under model, or leave the layer out: layers: [...]"
            )

    def _no_reads(self) -> np.ndarray:
        self._reads[...] = 0
        return self._reads


@dataclass(frozen=True)
class Budget:
    """Bytes that a KV head may read: a share of its full fp16 K and V, as a mean over the queries of a text.

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

    def at(self, ratios: Sequence[float]) -> Budget:
        """The same of other ratios."""
        return replace(self, ratios=tuple(map(float, ratios)))

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

    def counts(self, allowance: np.ndarray, key_bytes: float = 0.0) -> np.ndarray:
        """Whole keys that an allowance buys each query; -1 where not feasible; int64 [ratios, queries].

        Parameters
        ----------
        allowance : ndarray, shape [ratios, queries]
        key_bytes : float
            What reading one key costs beside its K and V.
        """
        keys = np.floor(allowance / (self.pair_bytes + key_bytes) + 1e-9)
        return np.where(np.isnan(keys), -1, np.minimum(keys, self.visible.cold)).astype(np.int64)


def _level(slack: np.ndarray) -> np.ndarray:
    """The nearest non-negative amounts with the same sum as `slack`; NaN where that sum is negative."""
    total = slack.sum()
    if total <= 0:
        return np.full(slack.shape, np.nan if total < 0 else 0.0)
    ordered = np.sort(slack)[::-1]
    paid = (np.cumsum(ordered) - total) / np.arange(1, len(slack) + 1)
    return np.maximum(slack - paid[np.flatnonzero(ordered > paid)[-1]], 0.0)


@dataclass(frozen=True)
class Estimate:
    """What an index says of every cold key of a KV head, and what it costs to know it."""

    # float32 [group, queries, tokens]; estimated scores, by which keys are chosen; valid as `Scene.empty` is
    scores: np.ndarray
    # Bytes read of the index, once for all heads of the group; of shape [queries], or the same for all queries
    index_bytes: np.ndarray | float = 0.0
    key_bytes: float = 0.0  # metadata read with every key that is read
    # float32 [group, queries, tokens]; estimated scores of keys that are left; None where `scores` are those
    tail: np.ndarray | None = None
    # Whether scores are as the model's softmax sees them: of a model that caps them, after its cap
    capped: bool = False


@dataclass(frozen=True)
class Selection:
    """What the heads of a KV head read together."""

    # uint8 [queries, tokens]; bit r: the key and its value are read at the r-th ratio. Only cold keys have bits.
    reads: np.ndarray
    feasible: np.ndarray  # bool [ratios]; false where index and kept keys alone exceed the budget
    # float64 [ratios, queries]; everything read beside K and V of the keys in `reads` and of those always kept
    index_bytes: np.ndarray
    # float32 [group, queries, tokens]; tail compensation by these estimated scores
    tail: np.ndarray | None = None
    # float32 [ratios, group, queries]; a rule's own share of the output for the running mean of V (SparQ's)
    tail_share: np.ndarray | None = None
    # float32 [ratios, group, queries, tokens]; added to the exact scores of keys that are read (importance weights of
    # methods that sample); -inf for a key that another head of the group sampled
    log_weight: Sequence[np.ndarray] | None = None


@dataclass(frozen=True)
class Spending:
    """How a KV head spends one budget of all, fitted on texts of role `threshold`."""

    theta: np.ndarray  # float32 [ratios]; least statistic that is read (`columns.statistic`)
    shares: (
        np.ndarray
    )  # float64 [ratios]; bytes ratio of this KV head, whose mean over KV heads is the budget


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

    # Or "oracle", or "record": one size of our own record, of which the best is chosen on threshold texts.
    kind = "peer"
    # The columns that it can be measured in.
    columns = COLUMNS
    # Whether what is fitted depends on the budget.
    budgeted = False

    @property
    def variant(self) -> str:
        """The hyperparameters, as tables name them: `dims=8`."""
        return ", ".join(f"{field.name}={_word(getattr(self, field.name))}" for field in fields(self))

    def record_spec(self, head_dim: int) -> tuple[str, int] | None:
        """Codec and bytes of code of the ghost records that it reads of keys of this width; None where it reads none."""

    def fit(self, calibration: Calibration) -> Any:
        """Learn what is fixed before a text is seen."""
        return None

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        """Bytes of what is fixed before a text is seen and read at every step, of one KV head."""
        return 0.0

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        """What the index says of the cold keys for each query."""
        raise NotImplementedError

    def select(self, fitted: Any, scene: Scene, budget: Budget, column: str) -> Selection | None:
        """Decide by other means than the column's own: what a paper's rule demands; None to leave it to the column."""
        return None


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def read_at(reads: np.ndarray, ratio: int) -> np.ndarray:
    """The keys of `Selection.reads` that are read at a ratio, bool, shape [queries, tokens]."""
    return (reads & np.uint8(1 << ratio)) != 0
