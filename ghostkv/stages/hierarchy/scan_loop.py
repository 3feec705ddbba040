"""The loop of the top-k certificate with an index over the records: one query head after the other.

Exact scores enter only as what a key's full K says once it is read, and after every decision, to verify it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ghostkv.elimination.topk_loop import (
    BYTES_NESTED,
    DEPTH_NESTED,
    FULL_NESTED,
    VALUE,
    _insert,
    _insert_range,
    _probe,
    charge,
    unite,
)
from ghostkv.elimination.topk_loop import COLUMNS as _LEDGER_COLUMNS

ANCHORS, RECORDS, LEVEL_READS, SURVIVORS, BYTES, SCAN_BYTES, MISSED, FIRST_THETA = range(8)
COLUMNS = 8
# What a query did with a cluster: nothing, read its anchor, opened it.
_UNSEEN, _ANCHOR, _OPEN = 0, 1, 2


@njit(cache=True, nogil=True, error_model="numpy")
def scan_loop(
    upper, lower, exact_low, ranges, rule, reach, ready, tree, costs, anchor_costs, scores, tau, out, group_bytes, kept,
    seeded,
):  # fmt: skip
    """See `ghostkv.stages.hierarchy.scan.scan_topk`; with no cluster ready every record is read (the flat scan)."""
    levels, group, queries, keys = upper.shape[0] - 1, upper.shape[1], upper.shape[2], upper.shape[3]
    first, start, stop, last = ranges
    k, probes, seeds, bypass, refresh = rule
    middle, above, coarse_middle, coarse_above = reach
    ready_leaves, ready_coarse, boundary = ready
    offsets, children, members = tree
    anchor_bytes, constant_bytes = anchor_costs
    clusters, parents = above.shape[2], coarse_above.shape[2]
    open_, best = np.empty(keys, np.int64), np.empty(k, np.float32)
    use, united = np.zeros((5, keys), np.uint8), np.zeros((5, keys), np.uint8)
    state, seen, row = np.empty(clusters, np.uint8), np.empty(parents, np.uint8), np.zeros(_LEDGER_COLUMNS)
    met, group_seen = np.empty(clusters, np.uint8), np.empty(parents, np.uint8)
    opened, asked = np.zeros((group, clusters)), np.zeros((group, clusters))
    for q in range(queries):
        a, b = start[q], max(stop[q], start[q])
        united[:, a:b] = 0
        met[:], group_seen[:] = 0, 0
        leaves, coarse = ready_leaves[q], ready_coarse[q]
        pending = min(max(boundary[q], a), b)
        for g in range(group):
            use[:, a:b] = 0
            state[:], seen[:] = _UNSEEN, 0
            low, lo, up = exact_low[g, q], lower[0, g, q], upper[0, g, q]
            full_lo, full_up = lower[levels, g, q], upper[levels, g, q]
            n = 0
            for j in range(pending, b):
                open_[n] = j
                use[DEPTH_NESTED, j] = 1
                n += 1
            if coarse == 0:
                for c in range(leaves):
                    size = offsets[c + 1] - offsets[c]
                    rate = (opened[g, c] + 1.0) / (asked[g, c] + 2.0)
                    if bypass and q % refresh and 1.0 + rate * size > size:
                        n = _open_cluster(c, offsets, members, a, open_, n, use)
                        state[c] = _OPEN
                    else:
                        state[c] = _ANCHOR
                        met[c] = 1
            else:
                wanted = min(coarse, max(1, 4 * seeds * coarse // max(leaves, 1)))
                _promising(coarse_middle[g, q], coarse, wanted, seen)
                for p in range(coarse):
                    group_seen[p] = 1
                    if seen[p]:
                        for c in range(children[p], children[p + 1]):
                            state[c] = _ANCHOR
                            met[c] = 1
            read = 0
            for c in range(leaves):
                read += state[c] == _ANCHOR
            n = _seed(
                middle[g, q],
                leaves,
                min(seeds, read),
                state,
                offsets,
                members,
                a,
                open_,
                n,
                use,
                seeded[g, q],
            )
            if probes > 0:
                _probe(up, lo, open_, n, probes, use)
            bounds = upper[:, g, q], lower[:, g, q]
            known = low, first[q], a, b, last[q]
            theta, cascaded = np.float32(-np.inf), 0
            if leaves > 0:
                # The best of the seeds are read to the end, so that the threshold for clusters is nearly final.
                n, theta = _cascade(bounds, open_, 0, n, theta, best, known, use)
                theta, cascaded = max(theta, _kth(best, known, open_, n, lo, full_lo, use)), n
            out[g, q, FIRST_THETA] = theta
            # Clusters whose best member is surely below the k-th best score are never opened.
            for p in range(coarse):
                if not seen[p] and not (coarse_above[g, q, p] < theta):
                    for c in range(children[p], children[p + 1]):
                        state[c] = _ANCHOR
                        met[c] = 1
            anchors = coarse
            for c in range(leaves):
                if state[c] == _ANCHOR:
                    anchors += 1
                    asked[g, c] += 1
                    if not (above[g, q, c] < theta):
                        opened[g, c] += 1
                        if not seeded[g, q, c]:
                            n = _open_cluster(c, offsets, members, a, open_, n, use)
            n, theta = _cascade(bounds, open_, cascaded, n, theta, best, known, use)
            # Second round: all survivors' K are known, so V is read only for those that may be among the best.
            theta = _kth(best, known, open_, n, lo, full_lo, use)
            for i in range(n):
                if not (full_up[open_[i]] < theta):
                    use[VALUE, open_[i]] = 1
            charge(use, a, b, last[q] - first[q], costs, row)
            _count(use, a, b, anchors, costs[0], anchor_bytes, constant_bytes, out[g, q])
            out[g, q, BYTES] = row[BYTES_NESTED] + anchors * anchor_bytes + constant_bytes * (leaves > 0)
            for j in range(a, b):
                out[g, q, MISSED] += (not use[VALUE, j]) and scores[g, q, j] >= tau[g, q]
            kept[g, q, first[q] : last[q]] = 1
            kept[g, q, a:b] = use[VALUE, a:b]
            unite(use, united, a, b)
        charge(united, a, b, last[q] - first[q], costs, row)
        anchors = met.sum() + group_seen.sum()
        group_bytes[q] = row[BYTES_NESTED] + anchors * anchor_bytes + constant_bytes * (leaves > 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _open_cluster(c, offsets, members, a, open_, n, use):
    """Read the first level of all members that are cold (a sliding window may have left some behind)."""
    for i in range(offsets[c], offsets[c + 1]):
        if members[i] >= a:
            open_[n] = members[i]
            use[DEPTH_NESTED, members[i]] = 1
            n += 1
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def _promising(middle, count, wanted, mark):
    """Mark the `wanted` coarse clusters with the best centres."""
    order = np.argsort(-middle[:count], kind="mergesort")
    for i in range(min(wanted, count)):
        mark[order[i]] = 1


@njit(cache=True, nogil=True, error_model="numpy")
def _seed(middle, leaves, wanted, state, offsets, members, a, open_, n, use, seeded):
    """Open the clusters with the best centres among those whose anchor was read."""
    if wanted <= 0:
        return n
    best = np.full(wanted, np.float32(-np.inf))
    for c in range(leaves):
        if state[c] == _ANCHOR and middle[c] > best[0]:
            _insert(best, middle[c])
    taken = 0
    for c in range(leaves):
        if state[c] == _ANCHOR and middle[c] >= best[0] and taken < wanted:
            taken += 1
            seeded[c] = 1
            n = _open_cluster(c, offsets, members, a, open_, n, use)
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def _cascade(bounds, open_, begin, n, theta, best, known, use):
    """Read the open keys from `begin` on level by level while they may be among the best, then K of those left.

    Returns how many stay open, and the threshold that they were held against.
    """
    upper, lower = bounds
    levels = upper.shape[0] - 1
    for level in range(levels):
        up, lo = upper[level], lower[level]
        for i in range(begin, n):
            if not use[FULL_NESTED, open_[i]]:
                use[DEPTH_NESTED, open_[i]] = level + 1
        theta = max(theta, _kth(best, known, open_, n, lo, lower[levels], use))
        left = begin
        for i in range(begin, n):
            j = open_[i]
            x = upper[levels, j] if use[FULL_NESTED, j] else up[j]
            if not (x < theta):
                open_[left] = j
                left += 1
        n = left
    for i in range(begin, n):
        use[FULL_NESTED, open_[i]] = 1
    return n, theta


@njit(cache=True, nogil=True, error_model="numpy")
def _kth(best, known, open_, n, lo, full_lo, use):
    """The k-th largest of what is certain: exact scores of kept keys, keys read in full, lower bounds."""
    low, first, a, b, last = known
    best[:] = -np.inf
    _insert_range(low, first, a, best)
    _insert_range(low, b, last, best)
    for i in range(n):
        j = open_[i]
        x = full_lo[j] if use[FULL_NESTED, j] else lo[j]
        if x > best[0]:
            _insert(best, x)
    return best[0]


@njit(cache=True, nogil=True, error_model="numpy")
def _count(use, a, b, anchors, prefix, anchor_bytes, constant_bytes, row):
    records, level_reads, full, scanned = 0, 0, 0, 0.0
    for j in range(a, b):
        records += use[DEPTH_NESTED, j] > 0
        level_reads += use[DEPTH_NESTED, j]
        full += use[FULL_NESTED, j]
        scanned += prefix[use[DEPTH_NESTED, j]]
    row[ANCHORS], row[RECORDS], row[LEVEL_READS], row[SURVIVORS] = anchors, records, level_reads, full
    row[SCAN_BYTES] = scanned + anchors * anchor_bytes + constant_bytes * (anchors > 0)
