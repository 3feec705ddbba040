"""The top-k certificate from a scan of records, flat or through an index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.elimination.certificates import Costs
from ghostkv.elimination.truth import Truth
from ghostkv.stages.hierarchy import scan_loop as loops
from ghostkv.stages.hierarchy.index import Index, Reach


@dataclass(frozen=True)
class Scan:
    """How records are scanned.

    Attributes
    ----------
    top_k : int
    probes : int
        Keys with the best estimates whose K is read in full before clusters are ruled out.
    seed_keys : int
        Keys of the most promising clusters that are read first, so that probes can be chosen.
    bypass : bool
        Clusters that earlier queries nearly always opened are read without their anchor.
    refresh : int
        Every how-manieth query reads the bypassed anchors again.
    """

    top_k: int
    probes: int
    seed_keys: int
    bypass: bool
    refresh: int


@dataclass(frozen=True)
class Counts:
    """What a scan read and left out; arrays of shape [group, queries] unless said.

    Attributes
    ----------
    anchors, records, level_reads : ndarray
        Anchors read; keys of which a record was read; levels of records read.
    survivors : ndarray
        Keys whose K was read in full.
    bytes, scan_bytes : ndarray
        Of everything, and of anchors and record levels alone.
    missed : ndarray
        Keys of the exact top-k left out.
    first_theta : ndarray
        Threshold that clusters were held against.
    group_bytes : ndarray, shape [queries]
        GQA-true: anchors, levels, K and V once a group.
    seeded : ndarray of uint8, shape [group, queries, clusters]
        Clusters opened before the threshold was known.
    kept : ndarray of bool, shape [group, queries, keys]
    """

    anchors: np.ndarray
    records: np.ndarray
    level_reads: np.ndarray
    survivors: np.ndarray
    bytes: np.ndarray
    scan_bytes: np.ndarray
    missed: np.ndarray
    first_theta: np.ndarray
    group_bytes: np.ndarray
    seeded: np.ndarray
    kept: np.ndarray


def scan_topk(
    lower: np.ndarray,
    upper: np.ndarray,
    truth: Truth,
    costs: Costs,
    scan: Scan,
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
    scan : Scan
    index, reach : Index and Reach, optional
        Without them every record of a cold key is read.
    """
    group, queries, keys = truth.scores.shape
    if index is None:
        nothing = np.zeros((group, queries, 0), np.float32)
        reach, none = Reach(nothing, nothing, nothing, nothing), np.zeros(queries, np.int64)
        shape = (none, none, truth.visible.start), (np.zeros(1, np.int64),) * 2 + (none[:0],)
        anchor = constant = 0.0
    else:
        shape = index.ready(truth.visible.stop), (index.offsets, index.children, index.members)
        anchor, constant = index.anchor_bytes, index.constant_bytes
    out = np.zeros((group, queries, loops.COLUMNS))
    united = np.zeros(queries)
    kept = np.zeros(truth.scores.shape, np.uint8)
    seeded = np.zeros(reach.upper.shape, np.uint8)
    mean = max(1.0, len(shape[1][2]) / max(reach.upper.shape[2], 1))
    seeds = int(np.ceil(scan.seed_keys / mean))
    loops.scan_loop(
        upper, lower, truth.low, truth.ranges, (scan.top_k, scan.probes, seeds, scan.bypass, scan.refresh),
        (reach.middle, reach.upper, reach.coarse_middle, reach.coarse_upper), *shape, costs.packed,
        (float(anchor), float(constant)), truth.scores, truth.tau, out, united, kept, seeded,
    )  # fmt: skip
    columns = (out[..., column] for column in range(loops.COLUMNS))
    return Counts(*columns, united, seeded, kept.view(bool))
