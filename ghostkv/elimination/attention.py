"""Exact attention of a captured layer: scores, softmax mass, which keys matter, which may be eliminated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.elimination.best import keep_best

# Bits of `ExactAttention.needed`.
TOP_K, MASS_95, MASS_99 = np.uint8(1), np.uint8(2), np.uint8(4)
# Interleaved sets of keys whose largest `kth_largest` looks at first.
_COMBS = 256


@dataclass(frozen=True)
class ColdRange:
    """Which keys a query sees and which of them are cold.

    Attributes
    ----------
    first, last : ndarray of int64, shape [queries]
        Visible keys are first..last-1.
    start, stop : ndarray of int64, shape [queries]
        Cold keys are start..stop-1: visible, no sink, not in the hot window. ``stop <= start`` means none.
    """

    first: np.ndarray
    last: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @property
    def visible(self) -> np.ndarray:
        """Number of visible keys, shape [queries]."""
        return self.last - self.first

    @property
    def cold(self) -> np.ndarray:
        """Number of cold keys, shape [queries]."""
        return np.maximum(self.stop - self.start, 0)


def cold_range(positions: np.ndarray, first: np.ndarray, sinks: int, hot: int) -> ColdRange:
    """Split the keys that each query sees into exact ones (sinks, hot window) and cold ones.

    Parameters
    ----------
    positions : ndarray of int, shape [queries]
        Token index of each query; it sees itself.
    first : ndarray of int, shape [queries]
        First visible key (0 except in a sliding window, where the sinks may be out of sight).
    sinks, hot : int
        First tokens of the text and most recent tokens that are always kept exact.
    """
    first, last = first.astype(np.int64), positions.astype(np.int64) + 1
    start = np.maximum(first, sinks)
    return ColdRange(first, last, start, np.maximum(last - hot, start))


def scores(queries: np.ndarray, keys: np.ndarray, scale: float, softcap: float = 0.0) -> np.ndarray:
    """Pre-softmax logits ``scale * q.k``, float32.

    Parameters
    ----------
    queries : ndarray of float32, shape [..., head_dim]
    keys : ndarray of float32, shape [keys, head_dim]
    scale : float
        The model's own.
    softcap : float
        Gemma 2's logit cap; 0 for none.

    Returns
    -------
    ndarray of float32, shape [..., keys]
    """
    return cap((queries * np.float32(scale)) @ keys.T, softcap)


def cap(logits: np.ndarray, softcap: float) -> np.ndarray:
    """Apply a soft cap in place. It is monotone and 1-Lipschitz: a margin that holds before holds after."""
    if softcap:
        logits /= np.float32(softcap)
        np.tanh(logits, out=logits)
        logits *= np.float32(softcap)
    return logits


@dataclass(frozen=True)
class ExactAttention:
    """What full attention does for the queries of one group: the truth that eliminations are measured
    against.

    Attributes
    ----------
    scores : ndarray of float32, shape [group, queries, keys]
        Exact scores; -inf where a key is not visible.
    mass : ndarray of float32, shape [group, queries, keys]
        Softmax probabilities.
    lse : ndarray of float32, shape [group, queries]
        ``log sum exp`` of the visible scores.
    needed : ndarray of uint8, shape [group, queries, keys]
        Flags `TOP_K`, `MASS_95`, `MASS_99`: the exact top-k keys, and the fewest keys that hold 95 % / 99 %
        of the mass.
    """

    scores: np.ndarray
    mass: np.ndarray
    lse: np.ndarray
    needed: np.ndarray


def exact_attention(
    capture: LayerCapture, kv_head: int, keys: np.ndarray, visible: ColdRange, top_k: int
) -> ExactAttention:
    """Exact attention of every head that reads `kv_head`.

    Parameters
    ----------
    capture : LayerCapture
    kv_head : int
    keys : ndarray of float32, shape [tokens, head_dim]
        The KV head's keys, widened once by the caller.
    visible : ColdRange
    top_k : int
        How many keys count as relevant; all visible ones where there are fewer.
    """
    logits = scores(capture.group_queries(kv_head), keys, capture.scale, capture.softcap)
    hide(logits, visible)
    peak = logits.max(axis=-1, keepdims=True)
    mass = np.exp(logits - peak)
    total = mass.sum(axis=-1, keepdims=True, dtype=np.float64)
    lse = (peak[..., 0] + np.log(total[..., 0])).astype(np.float32)
    mass /= total.astype(np.float32)
    return ExactAttention(logits, mass, lse, _needed(logits, mass, visible, top_k))


def hide(logits: np.ndarray, visible: ColdRange) -> None:
    """Set the scores of keys that a query does not see to -inf, in place; shape [..., queries, keys]."""
    position = np.arange(logits.shape[-1])
    hidden = (position < visible.first[:, None]) | (position >= visible.last[:, None])
    np.copyto(logits, -np.inf, where=hidden)


def _needed(logits: np.ndarray, mass: np.ndarray, visible: ColdRange, top_k: int) -> np.ndarray:
    needed = np.zeros(logits.shape, np.uint8)
    ascending = np.sort(mass, axis=-1)
    _flag(kth_largest(logits, visible.last, top_k), logits, mass, ascending, visible.last, top_k, needed)
    return needed


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _comb_maxima(row, maxima):
    """maxima[c] = the largest of row[c], row[c + combs], row[c + 2 combs], ... of the whole combs in the row."""
    combs = maxima.size
    maxima[:] = -np.inf
    for first in range(0, row.size - combs + 1, combs):
        for c in range(combs):
            x = row[np.uint64(first + c)]
            maxima[np.uint64(c)] = x if x > maxima[np.uint64(c)] else maxima[np.uint64(c)]


@njit(cache=True, nogil=True, error_model="numpy")
def kth_largest(known, last, k):
    """k-th largest of each row's first `last` entries; -inf where there are fewer.

    The k-th largest of the maxima of disjoint sets of keys is a lower bound that hardly more than k keys reach;
    only those enter the sorted list of the best. That costs two comparisons a key, far less than a partition.

    Parameters
    ----------
    known : ndarray of float32, shape [group, queries, keys]
    last : ndarray of int64, shape [queries]
    k : int

    Returns
    -------
    ndarray of float32, shape [group, queries]
    """
    out = np.empty(known.shape[:2], np.float32)
    best = np.empty(k, np.float32)
    maxima = np.empty(_COMBS, np.float32)
    for g in range(known.shape[0]):
        for q in range(known.shape[1]):
            row = known[g, q, : last[q]]
            _comb_maxima(row, maxima)
            best[:] = -np.inf
            keep_best(maxima, best[0], best)
            least = best[0]
            best[:] = -np.inf
            keep_best(row, least, best)
            out[g, q] = best[0]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _flag(kth, logits, mass, ascending, last, k, needed):
    """Mark the k best keys (the earliest of equal ones) and the fewest that hold 95 % and 99 % of mass."""
    keys = logits.shape[2]
    for g in range(logits.shape[0]):
        for q in range(logits.shape[1]):
            tau = kth[g, q]
            above = 0
            for j in range(last[q]):
                above += logits[g, q, j] > tau
            total, rank = 0.0, keys
            while total < 0.95 and rank > 0:
                rank -= 1
                total += ascending[g, q, rank]
            cut_95 = ascending[g, q, rank]
            while total < 0.99 and rank > 0:
                rank -= 1
                total += ascending[g, q, rank]
            cut_99 = ascending[g, q, rank]
            ties = k - above
            for j in range(last[q]):
                flags, x, p = 0, logits[g, q, j], mass[g, q, j]
                if x > tau:
                    flags = TOP_K
                elif x == tau and ties > 0 and x > -np.inf:
                    flags = TOP_K
                    ties -= 1
                if p >= cut_95 and p > 0:
                    flags |= MASS_95
                if p >= cut_99 and p > 0:
                    flags |= MASS_99
                needed[g, q, j] = flags
