"""The cascade of the top-k certificate over the open keys of one head and query.

``theta`` is the k-th largest of what is certain; a key whose upper bound is below it is in no exact top-k. A
certificate that reads every record and one that scans an index first differ only in which keys they open.
"""

from __future__ import annotations

import numpy as np

from ghostkv.elimination.best import insert, keep_best
from ghostkv.elimination.ledger import (
    DEPTH_ADDITIVE,
    DEPTH_NESTED,
    FULL_ADDITIVE,
    FULL_NESTED,
    VALUE,
)
from ghostkv.files.compiled import njit


@njit(cache=True, nogil=True, error_model="numpy")
def cascade(bounds, span, probes, open_, begin, count, theta, best, use):
    """Read open keys level by level while they may be among the best, then the K of those left.

    Parameters
    ----------
    probes : ndarray of int64, shape [levels]
        Keys with the best estimates whose K is read in full after each level.
    open_ : ndarray of int64, shape [keys]
        Open keys; those before `begin` were read to the end by an earlier cascade and stay. Compacted in place.
    theta : float32
        What an earlier cascade held keys against; -inf for none.

    Returns
    -------
    tuple of int and float32
        How many keys stay open, and the threshold that they were held against.
    """
    levels = bounds.upper.shape[0] - 1
    for level in range(levels):
        lower, upper = bounds.lower[level], bounds.upper[level]
        for i in range(begin, count):
            key = open_[i]
            if not use[FULL_NESTED, key]:
                use[DEPTH_NESTED, key] = level + 1
                if not use[FULL_ADDITIVE, key]:
                    use[DEPTH_ADDITIVE, key] = level + 1
        if probes[level] > 0:
            _probe(lower, upper, open_, count, probes[level], use)
        theta = max(theta, kth_certain(bounds, level, span, open_, count, best, use))
        left = begin
        for i in range(begin, count):
            key = open_[i]
            reach = bounds.upper[levels, key] if use[FULL_NESTED, key] else upper[key]
            if not (reach < theta):
                open_[left] = key
                left += 1
                # Surely among the best: beside a float16 K its further levels tell nothing more.
                if lower[key] >= theta:
                    use[FULL_ADDITIVE, key] = 1
        count = left
    for i in range(begin, count):
        use[FULL_NESTED, open_[i]] = 1
        use[FULL_ADDITIVE, open_[i]] = 1
    return count, theta


@njit(cache=True, nogil=True, error_model="numpy")
def kth_certain(bounds, level, span, open_, count, best, use):
    """The k-th largest of what is certain: scores of exact keys and of keys read in full, lower bounds of others."""
    lower, full = bounds.lower[level], bounds.lower[bounds.lower.shape[0] - 1]
    nothing = np.float32(-np.inf)
    best[:] = nothing
    keep_best(bounds.exact[span.first : span.start], nothing, best)
    keep_best(bounds.exact[span.stop : span.last], nothing, best)
    for i in range(count):
        key = open_[i]
        certain = full[key] if use[FULL_NESTED, key] else lower[key]
        if certain > best[0]:
            insert(best, certain)
    return best[0]


@njit(cache=True, nogil=True, error_model="numpy")
def _probe(lower, upper, open_, count, wanted, use):
    """Read K in full for the open keys with the best estimates, the middle between their bounds."""
    best = np.full(wanted, np.float32(-np.inf))
    for i in range(count):
        key = open_[i]
        if not use[FULL_NESTED, key]:
            twice = upper[key] + lower[key]
            if twice > best[0]:
                insert(best, twice)
    taken = 0
    for i in range(count):
        key = open_[i]
        if not use[FULL_NESTED, key] and upper[key] + lower[key] >= best[0] and taken < wanted:
            taken += 1
            use[FULL_NESTED, key] = 1
            use[FULL_ADDITIVE, key] = 1


@njit(cache=True, nogil=True, error_model="numpy")
def read_values(bounds, span, open_, count, best, use):
    """Second round: the K of all survivors are known, so V is read only for those that may still be among the best."""
    levels = bounds.upper.shape[0] - 1
    theta = kth_certain(bounds, levels, span, open_, count, best, use)
    for i in range(count):
        if not (bounds.upper[levels, open_[i]] < theta):
            use[VALUE, open_[i]] = 1


@njit(cache=True, nogil=True, error_model="numpy")
def count_missed(use, span, truth, head, query):
    """Cold keys that take no part although exact scores put them into the top-k."""
    scores, tau, missed = truth.scores[head, query], truth.tau[head, query], 0
    for key in range(span.start, span.stop):
        # "not <", so that what is not a number counts.
        missed += (not use[VALUE, key]) and not (scores[key] < tau)
    return missed
