"""Exact attention of a captured layer: scores, softmax mass, which keys matter, which may be eliminated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.elimination.best import keep_best
from ghostkv.files.compiled import njit

# Bits of `ExactAttention.needed`.
TOP_K, MASS_95, MASS_99 = np.uint8(1), np.uint8(2), np.uint8(4)
# Interleaved sets of keys whose largest `kth_largest` looks at first.
_COMBS = 256


class ColdRange(NamedTuple):
    """Which keys a query sees and which of them are cold; int64 [queries], or of one query."""

    # Visible keys are first..last-1.
    first: np.ndarray
    last: np.ndarray
    # Cold keys are start..stop-1: visible, no sink, not in the hot window; ``stop <= start`` means none.
    start: np.ndarray
    stop: np.ndarray

    @property
    def visible(self) -> np.ndarray:
        """Number of visible keys."""
        return self.last - self.first

    @property
    def cold(self) -> np.ndarray:
        """Number of cold keys."""
        return np.maximum(self.stop - self.start, 0)

    def mask(self, tokens: int) -> np.ndarray:
        """Which keys are cold, bool of shape [queries, tokens]."""
        return _between(self.start, self.stop, tokens)

    def seen(self, tokens: int) -> np.ndarray:
        """Which keys are visible, bool of shape [queries, tokens]."""
        return _between(self.first, self.last, tokens)

    def at(self, queries: np.ndarray | slice) -> ColdRange:
        """Some of the queries: a mask, indices or a slice."""
        return ColdRange(*(edge[queries] for edge in self))


def _between(start: np.ndarray, stop: np.ndarray, tokens: int) -> np.ndarray:
    token = np.arange(tokens)
    return (token >= start[:, None]) & (token < stop[:, None])


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


def scores(
    queries: np.ndarray,
    keys: np.ndarray,
    scale: float,
    softcap: float = 0.0,
    visible: ColdRange | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Pre-softmax logits ``scale * q.k``, float32 [..., keys].

    Parameters
    ----------
    queries : ndarray of float32, shape [..., head_dim]
        One matrix of all rows, [group * queries, head_dim], is multiplied at once, a stack of matrices one by one.
    keys : ndarray of float32, shape [keys, head_dim]
    scale : float
        The model's own.
    softcap : float
        Gemma 2's logit cap; 0 for none.
    visible : ColdRange, optional
        Scores of keys that a query does not see are -inf.
    """
    found = cap(np.matmul(queries * np.float32(scale), keys.T, out=out), softcap)
    if visible is not None:
        seen = visible.seen(len(keys))
        np.copyto(np.reshape(found, (-1, *seen.shape), copy=False), -np.inf, where=~seen)
    return found


def cap(logits: np.ndarray, softcap: float) -> np.ndarray:
    """Apply a soft cap in place. It is monotone and 1-Lipschitz: a margin that holds before holds after."""
    if softcap:
        logits /= np.float32(softcap)
        np.tanh(logits, out=logits)
        logits *= np.float32(softcap)
    return logits


@dataclass(frozen=True)
class ExactAttention:
    """What full attention does for the queries of one group: the truth that eliminations are measured against."""

    scores: np.ndarray  # float32 [group, queries, keys]; exact scores; -inf where a key is not visible
    mass: np.ndarray  # float32 [group, queries, keys]; softmax probabilities
    lse: np.ndarray  # float32 [group, queries]; ``log sum exp`` of the visible scores
    # uint8 [group, queries, keys]; flags `TOP_K`, `MASS_95`, `MASS_99`: the exact top-k keys, and the fewest keys
    # that hold 95 % / 99 % of the mass
    needed: np.ndarray
    cuts: np.ndarray  # float32 [2, group, queries]; the least masses that are flagged `MASS_95` and `MASS_99`


def exact_attention(
    capture: LayerCapture,
    kv_head: int,
    keys: np.ndarray,
    visible: ColdRange,
    top_k: int,
    cuts: np.ndarray | None = None,
) -> ExactAttention:
    """Exact attention of every head that reads `kv_head`.

    Parameters
    ----------
    keys : ndarray of float32, shape [tokens, head_dim]
        The KV head's keys, widened once by the caller.
    top_k : int
        How many keys count as relevant; all visible ones where there are fewer.
    cuts : ndarray of float32, shape [2, group, queries], optional
        `ExactAttention.cuts` of an earlier call, so that masses need not be sorted again.
    """
    logits = scores(capture.group_queries(kv_head), keys, capture.scale, capture.softcap, visible)
    mass, lse = softmax(logits)
    needed = np.zeros(logits.shape, np.uint8)
    flag_best(logits, visible.first, visible.last, top_k, TOP_K, needed)
    cuts = _mass_cuts(np.sort(mass, axis=-1)) if cuts is None else cuts
    _flag_mass(mass, cuts, visible.last, needed)
    return ExactAttention(logits, mass, lse.astype(np.float32), needed, cuts)


def softmax(
    logits: np.ndarray, out: np.ndarray | None = None, dtype: type = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities over the last axis, and ``log sum exp`` of shape [...].

    Parameters
    ----------
    out : ndarray, optional
        Where the probabilities go; may be `logits`.
    """
    peak = logits.max(axis=-1, keepdims=True)
    mass = np.subtract(logits, peak, out=out)
    np.exp(mass, out=mass)
    total = mass.sum(axis=-1, keepdims=True, dtype=dtype)
    mass /= total.astype(mass.dtype)
    return mass, (peak + np.log(total))[..., 0]


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
def kth_largest(known, first, last, k):
    """k-th largest of each row's entries first..last-1; -inf where there are fewer; float32 [group, queries].

    The k-th largest of the maxima of disjoint sets of keys is a lower bound that hardly more than k keys reach;
    only those enter the sorted list of the best. That costs two comparisons a key, far less than a partition.

    Parameters
    ----------
    known : ndarray of float32, shape [group, queries, keys]
    first, last : ndarray of int64, shape [queries]
    """
    out = np.empty(known.shape[:2], np.float32)
    best = np.empty(k, np.float32)
    maxima = np.empty(_COMBS, np.float32)
    for g in range(known.shape[0]):
        for q in range(known.shape[1]):
            row = known[g, q, first[q] : last[q]]
            _comb_maxima(row, maxima)
            best[:] = -np.inf
            keep_best(maxima, best[0], best)
            least = best[0]
            best[:] = -np.inf
            keep_best(row, least, best)
            out[g, q] = best[0]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def flag_best(logits, start, stop, k, flag, flags):
    """Mark the k best of keys start..stop-1 of each row: of equal ones the earliest.

    This is what "relevant" means wherever FER and recall are counted: k keys, or all where fewer are visible.
    """
    kth = kth_largest(logits, start, stop, k)
    for g in range(logits.shape[0]):
        for q in range(logits.shape[1]):
            row, marks, tau = logits[g, q, start[q] : stop[q]], flags[g, q, start[q] : stop[q]], kth[g, q]
            ties = k
            for j in range(row.size):
                ties -= row[j] > tau
            for j in range(row.size):
                tied = row[j] == tau and ties > 0 and tau > -np.inf
                ties -= tied
                if row[j] > tau or tied:
                    marks[j] |= flag


@njit(cache=True, nogil=True, error_model="numpy")
def _mass_cuts(ascending):
    """The least mass among the fewest keys that hold 95 % and 99 % of it, float32 [2, group, queries]."""
    group, queries, keys = ascending.shape
    cuts = np.empty((2, group, queries), np.float32)
    for g in range(group):
        for q in range(queries):
            total, rank = 0.0, keys
            while total < 0.95 and rank > 0:
                rank -= 1
                total += ascending[g, q, rank]
            cuts[0, g, q] = ascending[g, q, rank]
            while total < 0.99 and rank > 0:
                rank -= 1
                total += ascending[g, q, rank]
            cuts[1, g, q] = ascending[g, q, rank]
    return cuts


@njit(cache=True, nogil=True, error_model="numpy")
def _flag_mass(mass, cuts, last, needed):
    """Mark the fewest keys that hold 95 % and 99 % of mass."""
    for g in range(mass.shape[0]):
        for q in range(mass.shape[1]):
            cut_95, cut_99 = cuts[0, g, q], cuts[1, g, q]
            for j in range(last[q]):
                p = mass[g, q, j]
                if p >= cut_95 and p > 0:
                    needed[g, q, j] |= MASS_95
                if p >= cut_99 and p > 0:
                    needed[g, q, j] |= MASS_99
