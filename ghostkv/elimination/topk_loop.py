"""The loop of the top-k certificate, and the ledger of what is read: one query head after the other.

Exact scores enter in two places only: as what a key's full K says once it has been read (through the last level of
the bounds), and, after every decision is made, to verify it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Rows of the ledger `use`, one column a key.
DEPTH_NESTED, DEPTH_ADDITIVE, FULL_NESTED, FULL_ADDITIVE, VALUE = range(5)
# Columns of what a loop reports for each head and query.
(
    ELIMINATED,
    VALUES_UNREAD,
    BYTES_NESTED,
    BYTES_ADDITIVE,
    VIOLATED,
    DROPPED,
    CERTIFIED,
    ERROR,
    ERROR_BOUND,
    FALLBACK,
) = range(10)
COLUMNS = 10


@njit(cache=True, nogil=True, error_model="numpy")
def topk_loop(upper, lower, exact_low, ranges, k, probes, costs, scores, tau, out, group_bytes, kept):
    """Cascade of the top-k certificate; see `ghostkv.elimination.certificates.certify_topk`."""
    levels, group, queries, keys = upper.shape[0] - 1, upper.shape[1], upper.shape[2], upper.shape[3]
    first, start, stop, last = ranges
    open_, best = np.empty(keys, np.int64), np.empty(k, np.float32)
    use, united = np.zeros((5, keys), np.uint8), np.zeros((5, keys), np.uint8)
    for q in range(queries):
        a, b = start[q], max(stop[q], start[q])
        united[:, a:b] = 0
        for g in range(group):
            use[:, a:b] = 0
            low = exact_low[g, q]
            n = b - a
            for i in range(n):
                open_[i] = a + i
            theta = np.float32(-np.inf)
            for level in range(levels):
                up, lo = upper[level, g, q], lower[level, g, q]
                for i in range(n):
                    j = open_[i]
                    if not use[FULL_NESTED, j]:
                        use[DEPTH_NESTED, j] = level + 1
                        if not use[FULL_ADDITIVE, j]:
                            use[DEPTH_ADDITIVE, j] = level + 1
                if probes[level] > 0:
                    _probe(up, lo, open_, n, probes[level], use)
                # The k-th best of what is certain: exact scores of kept keys, probes, lower bounds.
                best[:] = -np.inf
                _insert_range(low, first[q], a, best)
                _insert_range(low, b, last[q], best)
                full_lo, full_up = lower[levels, g, q], upper[levels, g, q]
                for i in range(n):
                    j = open_[i]
                    x = full_lo[j] if use[FULL_NESTED, j] else lo[j]
                    if x > best[0]:
                        _insert(best, x)
                theta = best[0]
                left = 0
                for i in range(n):
                    j = open_[i]
                    x = full_up[j] if use[FULL_NESTED, j] else up[j]
                    if not (x < theta):
                        open_[left] = j
                        left += 1
                        # Surely among the best: beside a float16 K its further levels tell nothing more.
                        if lo[j] >= theta:
                            use[FULL_ADDITIVE, j] = 1
                n = left
            for i in range(n):
                use[FULL_NESTED, open_[i]] = 1
                use[FULL_ADDITIVE, open_[i]] = 1
            # Second round: all survivors' K are known, so V is read only for those that may still be among the best.
            best[:] = -np.inf
            _insert_range(low, first[q], a, best)
            _insert_range(low, b, last[q], best)
            for i in range(n):
                x = lower[levels, g, q, open_[i]]
                if x > best[0]:
                    _insert(best, x)
            for i in range(n):
                if not (upper[levels, g, q, open_[i]] < best[0]):
                    use[VALUE, open_[i]] = 1
            violated = 0
            for j in range(a, b):
                violated += (not use[VALUE, j]) and scores[g, q, j] >= tau[g, q]
            out[g, q, VIOLATED] = violated
            kept[g, q, first[q] : last[q]] = 1
            kept[g, q, a:b] = use[VALUE, a:b]
            charge(use, a, b, last[q] - first[q], costs, out[g, q])
            unite(use, united, a, b)
        charge_group(united, a, b, last[q] - first[q], costs, group_bytes[q])


@njit(cache=True, nogil=True, error_model="numpy")
def _insert(best, x):
    """Put x into the ascending list of the best so far, whose worst falls out."""
    i = 0
    while i + 1 < best.size and best[i + 1] < x:
        best[i] = best[i + 1]
        i += 1
    best[i] = x


@njit(cache=True, nogil=True, error_model="numpy")
def _insert_range(values, start, stop, best):
    for j in range(start, stop):
        if values[j] > best[0]:
            _insert(best, values[j])


@njit(cache=True, nogil=True, error_model="numpy")
def _probe(up, lo, open_, n, count, use):
    """Read K in full for the open keys with the best estimates."""
    best = np.full(count, np.float32(-np.inf))
    for i in range(n):
        j = open_[i]
        if not use[FULL_NESTED, j]:
            x = up[j] + lo[j]
            if x > best[0]:
                _insert(best, x)
    taken = 0
    for i in range(n):
        j = open_[i]
        if not use[FULL_NESTED, j] and up[j] + lo[j] >= best[0] and taken < count:
            taken += 1
            use[FULL_NESTED, j] = 1
            use[FULL_ADDITIVE, j] = 1


@njit(cache=True, nogil=True, error_model="numpy")
def charge(use, a, b, visible, costs, row):
    """Count keys and bytes of one head from its ledger."""
    prefix, total_nested, key_bytes, value_bytes = costs
    nested, additive = 0.0, 0.0
    values, full = 0, 0
    for j in range(a, b):
        nested += total_nested if use[FULL_NESTED, j] else prefix[use[DEPTH_NESTED, j]]
        additive += prefix[use[DEPTH_ADDITIVE, j]] + key_bytes * use[FULL_ADDITIVE, j]
        values += use[VALUE, j]
        full += use[FULL_NESTED, j]
    exact = (visible - (b - a)) * (key_bytes + value_bytes)
    row[ELIMINATED], row[VALUES_UNREAD] = b - a - full, b - a - values
    row[BYTES_NESTED] = nested + values * value_bytes + exact
    row[BYTES_ADDITIVE] = additive + values * value_bytes + exact


@njit(cache=True, nogil=True, error_model="numpy")
def unite(use, united, a, b):
    for r in range(5):
        for j in range(a, b):
            united[r, j] = max(united[r, j], use[r, j])


@njit(cache=True, nogil=True, error_model="numpy")
def charge_group(united, a, b, visible, costs, row):
    """Bytes of the whole group: each level, K and V once, however many heads asked."""
    counted = np.zeros(4)
    charge(united, a, b, visible, costs, counted)
    row[0], row[1] = counted[BYTES_NESTED], counted[BYTES_ADDITIVE]
