"""Measures of the hierarchy stage on one view: rows of its tables, the statistical variant, dropped mass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ghostkv.elimination.certificates import certify_mass
from ghostkv.elimination.ledger import Costs, Outcome
from ghostkv.elimination.powers import Powers
from ghostkv.files.tables import Tables
from ghostkv.stages.hierarchy.index import Index, Reach, key_bounds, members_above
from ghostkv.stages.hierarchy.scan_loop import Counts
from ghostkv.stages.hierarchy.schemas import SCHEMAS
from ghostkv.stages.hierarchy.view import LateView

# Shares of the margins that the statistical variant may keep.
SHARES = np.linspace(0.0, 1.0, 41)
# Share of the dropped-mass budget that whole clusters may take.
_CLUSTER_SHARE = 0.3


class HierarchyTables(Tables):
    """Rows of one layer."""

    def __init__(self) -> None:
        super().__init__(SCHEMAS)

    def add_check(self, about: Mapping, index: Index, what: str, checks: int, violations: int) -> None:
        """Count checks; `about` holds layer, kv_head, text, context, index and mode."""
        keys = {name: about[name] for name in ("layer", "kv_head", "text", "context", "index", "mode")}
        counted = {"what": what, "checks": int(checks), "violations": int(violations)}
        self.add_rows("checks", [{**keys, "bound": index.spec.bound, **counted}])

    def add_bound_checks(self, about: Mapping, index: Index, reach: Reach, view: LateView) -> None:
        """Hold every member's exact score, in float64, against its anchors."""
        for what, checks, violations in members_above(index, reach, view.exact):
            self.add_check(about, index, what, checks, violations)

    def add_topk(
        self,
        about: Mapping,
        view: LateView,
        flat: Counts,
        found: Counts,
        index: Index,
        top_k: int,
        share=None,
    ) -> list[dict]:
        """One row a head of a scan with an index beside the flat one; returns the rows."""
        visible = view.truth.visible
        cold, full = np.maximum(visible.cold, 1), visible.visible * view.costs.pair
        group = len(found.records)
        added = []
        for g in range(group):
            reads, flat_reads = (found.anchors + found.records)[g], flat.records[g]
            levels = (found.anchors + found.level_reads)[g].mean() / flat.level_reads[g].mean()
            added.append(
                {
                    **about,
                    "head": about["kv_head"] * group + g,
                    "chosen_for_reads": False,
                    "chosen_for_bytes": False,
                    "queries": len(cold),
                    "keys": visible.cold.mean(),
                    "anchor_bytes": index.anchor_bytes,
                    "anchors": found.anchors[g].mean(),
                    "records": found.records[g].mean(),
                    "reads": reads.mean(),
                    "flat_reads": flat_reads.mean(),
                    "reads_ratio": reads.mean() / flat_reads.mean(),
                    "level_ratio": levels,
                    "scan_ratio": found.scan_bytes[g].mean() / flat.scan_bytes[g].mean(),
                    "bytes_ratio": (found.bytes[g] / full).mean(),
                    "flat_bytes_ratio": (flat.bytes[g] / full).mean(),
                    "bytes_ratio_gqa": (found.group_bytes / full).mean(),
                    "flat_bytes_ratio_gqa": (flat.group_bytes / full).mean(),
                    "elimination": (1 - found.survivors[g] / cold).mean(),
                    "flat_elimination": (1 - flat.survivors[g] / cold).mean(),
                    "fer": found.missed[g].mean() / top_k,
                    "share": 1.0 if share is None else float(share[g]),
                    "violations": int((found.missed[g] > 0).sum()),
                }
            )
        self.add_rows("heads", added)
        if share is None:
            self.add_check(about, index, "topk", found.missed.size, np.count_nonzero(found.missed))
        return added

    def add_mass(
        self,
        about: Mapping,
        view: LateView,
        index: Index,
        reach: Reach,
        shares: Sequence[float],
        delta: float,
    ) -> list[dict]:
        """One row a head of the dropped-mass certificate with an index beside the flat one; returns the rows."""
        visible = view.truth.visible
        cold = np.maximum(visible.cold, 1)
        flat, found, reads = compare_mass(view, index, reach, shares, delta)
        anchors = index.ready(visible.stop)[0]
        group = len(reads)
        added = [
            {
                **about,
                "head": about["kv_head"] * group + g,
                "certificate": "mass",
                "target": delta,
                "chosen_for_reads": False,
                "chosen_for_bytes": False,
                "queries": len(cold),
                "keys": visible.cold.mean(),
                "anchor_bytes": index.anchor_bytes,
                "anchors": anchors.mean(),
                "records": reads[g].mean(),
                "reads": (reads[g] + anchors).mean(),
                "flat_reads": cold.mean(),
                "reads_ratio": (reads[g] + anchors).mean() / cold.mean(),
                "level_ratio": None,
                "scan_ratio": None,
                "bytes_ratio": found.bytes_nested[g].mean(),
                "flat_bytes_ratio": flat.bytes_nested[g].mean(),
                "bytes_ratio_gqa": None,
                "flat_bytes_ratio_gqa": None,
                "elimination": found.elimination[g].mean(),
                "flat_elimination": flat.elimination[g].mean(),
                "fer": None,
                "share": 1.0,
                "violations": int(found.violated[g].sum()),
            }
            for g in range(group)
        ]
        self.add_rows("heads", added)
        self.add_check(about, index, "mass", found.violated.size, np.count_nonzero(found.violated))
        return added


def compare_mass(
    view: LateView, index: Index, reach: Reach, shares: Sequence[float], delta: float
) -> tuple[Outcome, Outcome, np.ndarray]:
    """Dropped mass certified flat, and with the clusters' bounds as one more level before the records.

    Returns
    -------
    tuple
        Flat outcome, outcome with the index, and keys of which a record was read, shape [group, queries].
    """
    truth, costs = view.truth, view.costs
    powers = Powers.of(view.lower, view.upper, truth)
    flat = certify_mass(view.lower, view.upper, powers, truth, costs, shares, delta)
    middle, above = key_bounds(index, reach, len(view.keys), truth.visible.stop)
    with np.errstate(invalid="ignore"):
        # Only a guess of the mass is made of it, never a proof.
        below = np.nan_to_num(2 * middle - above, nan=-np.inf, neginf=-np.inf)
    lower, upper = np.concatenate([below[None], view.lower]), np.concatenate([above[None], view.upper])
    powers = Powers.of(lower, upper, truth)
    shares = [_CLUSTER_SHARE, *(_CLUSTER_SHARE + (1 - _CLUSTER_SHARE) * np.asarray(shares))]
    visible = truth.visible
    clusters = index.ready(visible.stop)[0]
    share = float((clusters * index.anchor_bytes + index.constant_bytes).mean() / visible.cold.mean())
    prefix = np.cumsum([0.0, share, *np.diff(costs.prefix)])
    charged = costs._replace(prefix=prefix, nested_key=costs.nested_key + share)
    found = certify_mass(lower, upper, powers, truth, charged, shares, delta)
    # The same decisions, charged one byte a record: beside it K and V of kept keys, 2 bytes each.
    unit = Costs.of([0.0, 1.0] + [0.0] * (len(costs.prefix) - 2), 1.0, 1, 1)
    counted = certify_mass(lower, upper, powers, truth, unit, shares, delta)
    values = visible.cold * (1 - counted.values_unread)
    exact = visible.visible - visible.cold
    reads = counted.bytes_nested * visible.visible * unit.pair - 2 * values - exact * unit.pair
    return flat, found, np.rint(reads)


def needed_share(
    view: LateView, index: Index, reach: Reach, found: Counts, top_k: int
) -> tuple[np.ndarray, np.ndarray]:
    """False elimination at each of `SHARES`, if clusters were opened by margins shrunk to it.

    Parameters
    ----------
    found : Counts
        Of a scan with the whole margins, whose seeds and first threshold do not depend on the share.

    Returns
    -------
    tuple of ndarray
        FER of shape [group, queries, shares], and the owners' share below which each key is lost (for tests).
    """
    truth = view.truth
    cluster = np.full(len(view.keys), -1)
    cluster[index.members] = index.owner
    stop = index.ready(truth.visible.stop)[2]
    covered = truth.visible._replace(stop=np.minimum(stop, truth.visible.stop))
    at_risk = (truth.scores >= truth.tau[..., None]) & covered.mask(len(cluster)) & (cluster >= 0)
    fer = np.zeros((*truth.tau.shape, len(SHARES)))
    g, q, j = np.nonzero(at_risk)
    c = cluster[j]
    middle, upper = reach.middle[g, q, c], reach.upper[g, q, c]
    with np.errstate(divide="ignore", invalid="ignore"):
        least = (found.first_theta[g, q] - middle) / (upper - middle)
    least = np.where(found.seeded[g, q, c] > 0, -np.inf, np.nan_to_num(least, nan=0.0))
    lost = SHARES[None, :] < least[:, None] - 1e-6
    np.add.at(fer, (g, q), lost / top_k)
    return fer, least


def calibrate_share(risks: Sequence[np.ndarray], target: float) -> np.ndarray:
    """Least share of the margins whose FER on threshold texts keeps to conformal risk control, a head.

    ``n / (n + 1) risk + 1 / (n + 1) <= target`` (Angelopoulos et al. 2024); 1, the certificate, where no share does.

    Parameters
    ----------
    risks : sequence of ndarray, shape [group, queries, shares]
        One a text.

    Returns
    -------
    ndarray, shape [group]
    """
    pooled = np.concatenate(risks, axis=1)
    count = pooled.shape[1]
    risk = (count * pooled.mean(axis=1) + 1) / (count + 1)
    holds = risk <= target
    # The risk falls as the share grows; the whole margin is always admitted.
    holds[:, -1] = True
    return SHARES[holds.argmax(axis=1)]
