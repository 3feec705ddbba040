"""Exact attention as certificates need it: to verify them, and to say what exact scores could eliminate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ghostkv.elimination.attention import ColdRange, kth_largest, softmax
from ghostkv.elimination.bounds import score_slack
from ghostkv.elimination.compensation import cold_means
from ghostkv.files.blocks import row_blocks


class Truth(NamedTuple):
    """Exact attention of the queries of one group, which eliminations are verified against."""

    scores: np.ndarray  # float32 [group, queries, keys]; -inf where a key is not visible
    # float32 [group, queries, keys]; K in float16 makes certain that a score lies between them, whatever the rounding
    # of a float32 dot product.
    low: np.ndarray
    high: np.ndarray
    mass: np.ndarray  # float64 [group, queries, keys]; softmax probabilities
    lse: np.ndarray  # float64 [group, queries]; ``log sum exp`` of the scores
    tau: np.ndarray  # float32 [group, queries]; the k-th largest score
    values: np.ndarray  # float32 [keys, value_dim]; width 0 where values were not captured
    # Of each query's cold keys: the largest norm of a V, float64 [queries], and their mean V, float32 [queries, value_dim].
    largest: np.ndarray
    means: np.ndarray
    outputs: np.ndarray  # float64 [group, queries, value_dim]
    visible: ColdRange

    @classmethod
    def of(
        cls,
        queries: np.ndarray,
        keys: np.ndarray,
        scores: np.ndarray,
        values: np.ndarray | None,
        visible: ColdRange,
        scale: float,
        top_k: int,
    ) -> Truth:
        """Exact attention from scores.

        Parameters
        ----------
        queries : ndarray of float32, shape [group, queries, head_dim]
        keys : ndarray, shape [keys, head_dim]
        scores : ndarray of float32, shape [group, queries, keys]
            As `ghostkv.elimination.attention.scores` gives them, with `visible`.
        values : ndarray, shape [keys, value_dim], or None
        """
        norms = _norms(keys)
        flat = queries.reshape(-1, queries.shape[-1])
        slack = score_slack(flat, norms, scale, flat.shape[1]).reshape(scores.shape)
        mass = scores.astype(np.float64)
        _, lse = softmax(mass, out=mass)
        values = np.zeros((scores.shape[2], 0), np.float32) if values is None else values.astype(np.float32)
        wide = values.astype(np.float64)
        return cls(
            scores=scores,
            low=scores - slack,
            high=scores + slack,
            mass=mass,
            lse=lse,
            tau=kth_largest(scores, visible.first, visible.last, top_k),
            values=values,
            largest=_largest_norms(values, visible),
            means=cold_means(values, visible)[:, 0],
            outputs=mass @ wide,
            visible=visible,
        )

    def at(self, queries: slice) -> Truth:
        """Some of the queries."""
        rows = {
            name: np.ascontiguousarray(getattr(self, name)[:, queries])
            for name in ("scores", "low", "high", "mass", "lse", "tau", "outputs")
        }
        rows |= {name: np.ascontiguousarray(getattr(self, name)[queries]) for name in ("largest", "means")}
        return self._replace(visible=self.visible.at(queries), **rows)


def _largest_norms(values: np.ndarray, visible: ColdRange) -> np.ndarray:
    """The largest ``||v||`` of each query's cold keys, float64 [queries]; 0 where none is cold."""
    return np.where(visible.mask(len(values)), _norms(values), 0.0).max(axis=-1)


def _norms(rows: np.ndarray) -> np.ndarray:
    """``||row||``, float64 [rows]."""
    return np.concatenate(
        [np.linalg.norm(rows[block].astype(np.float64), axis=1) for block in row_blocks(len(rows))]
    )


class Oracle(NamedTuple):
    """What exact scores would leave out, were they known for nothing."""

    elimination: np.ndarray  # [group, queries]; share of the cold keys that a head leaves out
    united: np.ndarray  # [queries]; share of the cold keys that no head of the group keeps

    @classmethod
    def of(cls, left_out: np.ndarray, visible: ColdRange) -> Oracle:
        """From cold keys that each head leaves out, bool [group, queries, keys]."""
        cold = np.maximum(visible.cold, 1)
        return cls(left_out.sum(axis=-1) / cold, left_out.all(axis=0).sum(axis=-1) / cold)


def oracle_topk(truth: Truth) -> Oracle:
    """What exact scores leave out that lose no top-k key."""
    cold = truth.visible.mask(truth.scores.shape[-1])
    return Oracle.of((truth.scores < truth.tau[..., None]) & cold, truth.visible)


def oracle_mass(truth: Truth, deltas: Sequence[float], together: bool = False) -> list[Oracle]:
    """What exact scores leave out that drop at most each delta.

    It is the most of each head; of heads that leave out the same keys (`together`), what lowest first of the largest mass in any
    head gives.
    """
    cold = truth.visible.mask(truth.mass.shape[-1])
    mass = np.where(cold, truth.mass, np.inf).astype(np.float32)
    if together:
        shared = mass.max(axis=0)
        order = np.argsort(shared, axis=-1, kind="stable")
        total = np.cumsum(np.take_along_axis(mass, order[None], axis=-1), axis=-1, dtype=np.float64)
        ranked, total = np.take_along_axis(shared, order, axis=-1)[None], total.max(axis=0, keepdims=True)
        mass = np.broadcast_to(shared, mass.shape)
    else:
        ranked = np.sort(mass, axis=-1)
        total = np.cumsum(ranked, axis=-1, dtype=np.float64)
    found = []
    for delta in deltas:
        count = (total <= delta).sum(axis=-1, keepdims=True)
        # Of keys that tie with the first that stays all stay: to split them takes their order.
        stays = np.take_along_axis(ranked, np.minimum(count, ranked.shape[-1] - 1), axis=-1)
        found.append(Oracle.of((mass < stays) & cold, truth.visible))
    return found
