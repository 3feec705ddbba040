"""The loop of the top-k certificate with an index over the records: one query head after the other.

Exact scores enter only as what a key's full K says once it is read, and after every decision, to verify it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ghostkv.elimination.best import insert
from ghostkv.elimination.cascade import cascade, count_missed, kth_certain, read_values
from ghostkv.elimination.ledger import (
    DEPTH_NESTED,
    FULL_NESTED,
    Costs,
    bounds_of,
    charge,
    empty_ledger,
    forget,
    mark_kept,
    span_of,
    unite,
)
from ghostkv.files.compiled import njit

# What a query did with a cluster: nothing, read its anchor, opened it.
_UNSEEN, _ANCHOR, _OPEN = 0, 1, 2


class IndexRule(NamedTuple):
    """How an index is scanned: see `ghostkv.stages.hierarchy.scan.ScanRule`.

    `probes` int64 [levels]; `seeds` counts clusters; the last two are the bytes of an anchor, and those that every
    query reads.
    """

    top_k: int
    probes: np.ndarray
    seeds: int
    bypass: bool
    refresh: int
    costs: Costs
    anchor_bytes: float
    constant_bytes: float


class LeafClusters(NamedTuple):
    """Clusters of an index, in the order of their blocks.

    Leaf `c` holds `members[offsets[c] : offsets[c + 1]]`; coarse cluster `p` the leaves `children[p]` up to
    `children[p + 1]`. Of those, a query finds the first `leaves` and `coarse` [queries] ready, and reads the records
    from key `boundary` [queries] on one by one.
    """

    offsets: np.ndarray
    children: np.ndarray
    members: np.ndarray
    leaves: np.ndarray
    coarse: np.ndarray
    boundary: np.ndarray


class Counts(NamedTuple):
    """What a scan read and left out; arrays of shape [group, queries] unless said."""

    anchors: np.ndarray  # anchors read
    records: np.ndarray  # keys of which a record was read
    level_reads: np.ndarray  # levels of records read
    survivors: np.ndarray  # keys whose K was read in full
    bytes: np.ndarray  # of everything
    scan_bytes: np.ndarray  # of anchors and record levels alone
    missed: np.ndarray  # keys of the exact top-k left out
    first_theta: np.ndarray  # threshold that clusters were held against
    group_bytes: np.ndarray  # shape [queries], GQA-true: anchors, levels, K and V once a group
    # uint8, shape [group, queries, clusters]: clusters opened before the threshold was known.
    seeded: np.ndarray
    kept: np.ndarray  # bool (uint8 in the loop), shape [group, queries, keys]


class _Seen(NamedTuple):
    """What happened to leaves and coarse clusters at a query: of one head, and of any head of the group."""

    state: np.ndarray
    coarse: np.ndarray
    group_anchors: np.ndarray
    group_coarse: np.ndarray


class _Open(NamedTuple):
    """Scratch of one head: open keys, the best scores, the ledger."""

    keys: np.ndarray
    best: np.ndarray
    use: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def scan_loop(lower, upper, truth, rule, clusters, reach, tally):
    """See `ghostkv.stages.hierarchy.scan.scan_topk`; with no cluster ready every record is read (the flat scan).

    Parameters
    ----------
    reach : Reach
        Scores of centres and largest scores of members.
    tally : Counts
        Filled.
    """
    group, queries, keys = truth.scores.shape
    leaf_count, coarse_count = reach.upper.shape[2], reach.coarse_upper.shape[2]
    open_ = _Open(np.empty(keys, np.int64), np.empty(rule.top_k, np.float32), empty_ledger(keys))
    use, united = open_.use, empty_ledger(keys)
    seen = _Seen(
        np.empty(leaf_count, np.uint8), np.empty(coarse_count, np.uint8), np.empty(leaf_count, np.uint8),
        np.empty(coarse_count, np.uint8),
    )  # fmt: skip
    # How often each head read a leaf's anchor so far, and how often it then had to open it.
    asked, opened = np.zeros((group, leaf_count)), np.zeros((group, leaf_count))
    no_probes = np.zeros_like(rule.probes)
    for query in range(queries):
        span = span_of(truth.visible, query)
        forget(united, span)
        seen.group_anchors[:], seen.group_coarse[:] = 0, 0
        leaves, coarse = clusters.leaves[query], clusters.coarse[query]
        constant = rule.constant_bytes * (leaves > 0)
        for head in range(group):
            forget(use, span)
            of_head = bounds_of(lower, upper, truth, head, query)
            count = _open_pending(clusters, query, span, open_)
            seen.state[:], seen.coarse[:] = _UNSEEN, 0
            if coarse == 0:
                trusted = rule.bypass and query % rule.refresh > 0
                count = _read_leaves(
                    clusters, leaves, trusted, opened[head], asked[head], span, open_, count, seen
                )
            else:
                wanted = min(coarse, max(1, 4 * rule.seeds * coarse // max(leaves, 1)))
                _promising(reach.coarse_middle[head, query], coarse, wanted, seen.coarse)
                seen.group_coarse[:coarse] = 1
                _read_children(clusters, coarse, seen.coarse, seen)
            seeded = tally.seeded[head, query]
            count = _seed(
                reach.middle[head, query], clusters, leaves, rule.seeds, span, open_, count, seen, seeded
            )
            probes, theta, cascaded = rule.probes, np.float32(-np.inf), 0
            if leaves > 0:
                # The best of the seeds are read to the end, so that the threshold for clusters is nearly final.
                count, theta = cascade(of_head, span, probes, open_.keys, 0, count, theta, open_.best, use)
                theta = max(theta, kth_certain(of_head, 0, span, open_.keys, count, open_.best, use))
                probes, cascaded = no_probes, count
            tally.first_theta[head, query] = theta
            # Clusters whose best member is surely below the k-th best score are never opened.
            for p in range(coarse):
                seen.coarse[p] = not seen.coarse[p] and not (reach.coarse_upper[head, query, p] < theta)
            _read_children(clusters, coarse, seen.coarse, seen)
            anchors = coarse
            for c in range(leaves):
                if seen.state[c] == _ANCHOR:
                    anchors += 1
                    asked[head, c] += 1
                    if not (reach.upper[head, query, c] < theta):
                        opened[head, c] += 1
                        if not seeded[c]:
                            count = _open_cluster(c, clusters, span, open_, count)
            count, _ = cascade(of_head, span, probes, open_.keys, cascaded, count, theta, open_.best, use)
            read_values(of_head, span, open_.keys, count, open_.best, use)
            _count(use, span, anchors, rule, tally, head, query)
            spent = charge(use, span, rule.costs)
            tally.bytes[head, query] = spent.nested + anchors * rule.anchor_bytes + constant
            tally.missed[head, query] = count_missed(use, span, truth, head, query)
            mark_kept(use, span, tally.kept[head, query])
            unite(use, united, span)
        spent = charge(united, span, rule.costs)
        anchors = seen.group_anchors.sum() + seen.group_coarse.sum()
        tally.group_bytes[query] = spent.nested + anchors * rule.anchor_bytes + constant


@njit(cache=True, nogil=True, error_model="numpy")
def _open_pending(clusters, query, span, open_):
    """Read the first level of all keys that no cluster holds yet; returns how many keys are open."""
    count = 0
    for key in range(min(max(clusters.boundary[query], span.start), span.stop), span.stop):
        open_.keys[count] = key
        open_.use[DEPTH_NESTED, key] = 1
        count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _open_cluster(c, clusters, span, open_, count):
    """Read the first level of all members that are cold (a sliding window may have left some behind)."""
    for i in range(clusters.offsets[c], clusters.offsets[c + 1]):
        key = clusters.members[i]
        if key >= span.start:
            open_.keys[count] = key
            open_.use[DEPTH_NESTED, key] = 1
            count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _read_leaves(clusters, leaves, trusted, opened, asked, span, open_, count, seen):
    """Read every leaf's anchor, except that a trusted history opens at once what was nearly always opened."""
    for c in range(leaves):
        size = clusters.offsets[c + 1] - clusters.offsets[c]
        rate = (opened[c] + 1.0) / (asked[c] + 2.0)
        if trusted and 1.0 + rate * size > size:
            count = _open_cluster(c, clusters, span, open_, count)
            seen.state[c] = _OPEN
        else:
            seen.state[c] = _ANCHOR
            seen.group_anchors[c] = 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _read_children(clusters, coarse, chosen, seen):
    """Read the anchors of the leaves under the chosen coarse clusters."""
    for p in range(coarse):
        if chosen[p]:
            for c in range(clusters.children[p], clusters.children[p + 1]):
                seen.state[c] = _ANCHOR
                seen.group_anchors[c] = 1


@njit(cache=True, nogil=True, error_model="numpy")
def _promising(middle, count, wanted, mark):
    """Mark the `wanted` coarse clusters with the best centres."""
    order = np.argsort(-middle[:count], kind="mergesort")
    for i in range(min(wanted, count)):
        mark[order[i]] = 1


@njit(cache=True, nogil=True, error_model="numpy")
def _seed(middle, clusters, leaves, seeds, span, open_, count, seen, seeded):
    """Open the clusters with the best centres among those whose anchor was read."""
    read = 0
    for c in range(leaves):
        read += seen.state[c] == _ANCHOR
    wanted = min(seeds, read)
    if wanted <= 0:
        return count
    best = np.full(wanted, np.float32(-np.inf))
    for c in range(leaves):
        if seen.state[c] == _ANCHOR and middle[c] > best[0]:
            insert(best, middle[c])
    taken = 0
    for c in range(leaves):
        if seen.state[c] == _ANCHOR and middle[c] >= best[0] and taken < wanted:
            taken += 1
            seeded[c] = 1
            count = _open_cluster(c, clusters, span, open_, count)
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _count(use, span, anchors, rule, tally, head, query):
    """Enter reads of one head, and the bytes of its anchors and record levels."""
    records, level_reads, survivors, scanned = 0, 0, 0, 0.0
    for key in range(span.start, span.stop):
        depth = use[DEPTH_NESTED, key]
        records += depth > 0
        level_reads += depth
        survivors += use[FULL_NESTED, key]
        scanned += rule.costs.prefix[depth]
    tally.anchors[head, query], tally.records[head, query] = anchors, records
    tally.level_reads[head, query], tally.survivors[head, query] = level_reads, survivors
    tally.scan_bytes[head, query] = (
        scanned + anchors * rule.anchor_bytes + rule.constant_bytes * (anchors > 0)
    )
