"""The top-k certificate from a scan of records, flat or through an index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.elimination.ledger import Costs
from ghostkv.elimination.truth import Truth
from ghostkv.stages.hierarchy.index import Index, Reach
from ghostkv.stages.hierarchy.scan_loop import Counts, IndexRule, LeafClusters, scan_loop


@dataclass(frozen=True)
class ScanRule:
    """How records are scanned."""

    top_k: int
    probes: int  # keys with the best estimates whose K is read in full before clusters are ruled out
    seed_keys: int  # keys of the most promising clusters that are read first, so that probes can be chosen
    bypass: bool  # clusters that earlier queries nearly always opened are read without their anchor
    refresh: int  # one query in so many reads the bypassed anchors again


def scan_topk(
    lower: np.ndarray,
    upper: np.ndarray,
    truth: Truth,
    costs: Costs,
    scan: ScanRule,
    index: Index | None = None,
    reach: Reach | None = None,
) -> Counts:
    """The top-k certificate, flat or with an index.

    Parameters
    ----------
    lower, upper : ndarray of float32, shape [levels + 1, group, queries, keys]
        As for `ghostkv.elimination.certificates.certify_topk`.
    truth : Truth
        Read for the exact keys, and to verify.
    costs : Costs
        K is stored nested.
    index, reach : Index and Reach, optional
        Without them every record of a cold key is read.
    """
    group, queries, _ = truth.scores.shape
    if index is None:
        nothing, none = np.zeros((group, queries, 0), np.float32), np.zeros(0, np.int64)
        reach = Reach(middle=nothing, upper=nothing, coarse_middle=nothing, coarse_upper=nothing)
        never = np.zeros(queries, np.int64)
        clusters = LeafClusters(
            offsets=np.zeros(1, np.int64), children=np.zeros(1, np.int64), members=none,
            leaves=never, coarse=never, boundary=truth.visible.start,
        )  # fmt: skip
        anchor = constant = 0.0
    else:
        leaves, coarse, boundary = index.ready(truth.visible.stop)
        clusters = LeafClusters(
            offsets=index.offsets, children=index.children, members=index.members,
            leaves=leaves, coarse=coarse, boundary=boundary,
        )  # fmt: skip
        anchor, constant = index.anchor_bytes, index.constant_bytes
    mean = max(1.0, len(clusters.members) / max(reach.upper.shape[2], 1))
    probes = np.zeros(len(lower) - 1, np.int64)
    probes[0] = scan.probes
    rule = IndexRule(
        top_k=scan.top_k, probes=probes, seeds=int(np.ceil(scan.seed_keys / mean)), bypass=scan.bypass,
        refresh=scan.refresh, costs=costs, anchor_bytes=float(anchor), constant_bytes=float(constant),
    )  # fmt: skip
    per_head = (
        "anchors",
        "records",
        "level_reads",
        "survivors",
        "bytes",
        "scan_bytes",
        "missed",
        "first_theta",
    )
    counted = Counts(
        **{name: np.zeros((group, queries)) for name in per_head},
        group_bytes=np.zeros(queries),
        seeded=np.zeros(reach.upper.shape, np.uint8),
        kept=np.zeros(truth.scores.shape, bool),
    )
    scan_loop(lower, upper, truth, rule, clusters, reach, counted)
    return counted
