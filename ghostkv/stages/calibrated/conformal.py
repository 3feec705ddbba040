"""Thresholds with a guarantee: conformal risk control per head or per group, and what the guarantee rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ghostkv.elimination.thresholds import conformal_index
from ghostkv.files.compiled import njit

# What may stand in for eliminated values; see `ghostkv.stages.calibrated.compensated_sweep`.
COMPENSATIONS = ("none", "mean", "pages")
# Risks that grow with theta and are at most 1, as conformal risk control demands.
CONTROLLED = ("fer", "dropped_mass")

# How the heads of a group come to one set of survivors.
#   head          each head attends to the keys that its own threshold keeps
#   united        the same thresholds, but each head attends to all that the group reads
#   group         one statistic for all, the largest of the heads', and one threshold per KV head
#   group_offset  the same, each head's statistic first measured from its own threshold
DECISIONS = ("head", "united", "group", "group_offset")


@dataclass(frozen=True)
class Goal:
    """A risk and how much of it is allowed."""

    metric: str  # `fer`, `dropped_mass` or `output_error`
    target: float
    compensation: str = "none"  # what stands in for eliminated values; it changes the output error alone

    @property
    def risk(self) -> str:
        """Name of its risk curve."""
        return f"{self.metric}_{self.compensation}" if self.metric == "output_error" else self.metric


def goals(targets: Mapping[str, Sequence[float]], compensations: Sequence[str] = ()) -> list[Goal]:
    """Every goal of a config section ``{"fer": [...], ...}``; output errors once per compensation."""
    return [
        Goal(metric, target, compensation)
        for metric, levels in targets.items()
        for target in levels
        for compensation in (compensations if metric == "output_error" else COMPENSATIONS[:1])
    ]


@dataclass(frozen=True)
class CalibratedThresholds:
    """Thresholds of a group's heads, and whether anything is promised of them."""

    goal: Goal
    index: np.ndarray  # int, shape [group]: threshold of each head; -1 eliminates nothing
    samples: int  # calibration queries ``n`` of each head
    guaranteed_if_exchangeable: (
        bool  # whether the expected risk of a new, exchangeable query is at most the target
    )

    failure: float = (
        0.0  # share of calibrations that may lie above the target; 0 where their mean risk is bounded
    )

    @property
    def floor(self) -> float:
        """The smallest target that so many queries can promise."""
        return floor(self.samples, self.failure)


def floor(samples: float, failure: float = 0.0) -> float:
    """The smallest target that ``n`` calibration queries can promise, be their losses all 0.

    ``1 / (n + 1)`` for the mean, for the next query may be the one in ``n + 1`` that loses everything. But for a probability
    `failure` it is ``1 - failure^(1/n)``: queries that lose everything at that rate are all missed with that probability.
    """
    return 1.0 - failure ** (1.0 / samples) if failure else 1.0 / (samples + 1)


def calibrate(risks: Sequence[np.ndarray], goal: Goal, shared: bool = False) -> CalibratedThresholds:
    """The largest threshold that conformal risk control allows, on the queries of several texts together.

    The output error is neither monotone nor bounded: it is cut at 1 and the last threshold below which all are
    controlled is taken, a plug-in without a guarantee.

    Parameters
    ----------
    risks : sequence of ndarray, shape [group, queries, thetas]
        One a text.
    shared : bool
        One threshold for all heads: the strictest head's. Each head's risk grows with theta, so each keeps its
        guarantee.
    """
    samples = sum(risk.shape[1] for risk in risks)
    total = sum(np.minimum(risk, 1.0).sum(axis=1, dtype=np.float64) for risk in risks)
    index = np.array([conformal_index(head / samples, samples, goal.target) for head in total])
    if shared:
        index[:] = index.min()
    guaranteed_if_exchangeable = goal.metric in CONTROLLED and goal.target >= floor(samples)
    return CalibratedThresholds(goal, index, samples, guaranteed_if_exchangeable)


def plug_in(risks: Sequence[np.ndarray], goal: Goal) -> CalibratedThresholds:
    """The largest threshold whose mean calibration risk is at most the target: no correction, no guarantee.

    For calibration sets so small that their floor lies above the target.
    """
    samples = sum(risk.shape[1] for risk in risks)
    total = sum(np.minimum(risk, 1.0).sum(axis=1, dtype=np.float64) for risk in risks)
    within = total / samples <= goal.target
    return CalibratedThresholds(goal, np.cumprod(within, axis=1).sum(axis=1) - 1, samples, False)


@njit(cache=True, nogil=True, error_model="numpy")
def group_statistic(statistic, offset, start, stop, out):
    """The largest statistic of a group's heads, each measured from its own offset, written for every head.

    A key is then eliminated for all heads or for none, and never where a head alone would keep it.

    Parameters
    ----------
    statistic : ndarray of float32, shape [group, queries, keys]
    offset : ndarray of float32, shape [group]
        -inf for a head that keeps everything.
    start, stop : ndarray of int64, shape [queries]
        Cold keys; only these are written.
    out : ndarray of float32, shape [group, queries, keys]
        Must not be `statistic`.
    """
    group, queries, _ = statistic.shape
    for q in range(queries):
        cold = slice(start[q], max(start[q], stop[q]))
        best = out[0, q, cold]
        for g in range(group):
            row, own = statistic[g, q, cold], offset[g]
            for j in range(best.size):
                value = row[j] - own
                best[j] = value if g == 0 else max(best[j], value)
        for g in range(1, group):
            out[g, q, cold] = best


def shifts(step: float, steps: int) -> np.ndarray:
    """Common shifts of a group's thresholds, ascending, with an exact 0 in the middle."""
    return np.arange(-steps, steps + 1) * step


@dataclass(frozen=True)
class Dependence:
    """How much the queries of a text are alike, and what that leaves of a sample."""

    correlation: float  # intraclass correlation: the share of a query's risk variance that its text decides
    # Kish's design effect ``1 + (m - 1) correlation``; ``m`` is the queries of a text as a query meets them,
    # ``sum m_i^2 / sum m_i``
    effect: float
    effective: float  # independent queries that would be worth as much


def dependence(means: np.ndarray, variances: np.ndarray, queries: np.ndarray) -> Dependence:
    """Intraclass correlation from one-way analysis of variance, heads pooled; derived in docs/calibrated.md, section 1.

    Parameters
    ----------
    means, variances : ndarray, shape [heads, texts]
        Of the risk over a text's queries; variances with denominator ``m - 1``.
    queries : ndarray of int, shape [texts]
        Queries ``m`` of each text.
    """
    texts, total = len(queries), int(queries.sum())
    if texts < 2 or total <= texts:
        return Dependence(float("nan"), float("nan"), float("nan"))
    whole = (means @ queries / total)[:, None]
    between = ((means - whole) ** 2 @ queries).sum() / (texts - 1)
    within = (variances @ (queries - 1)).sum() / (total - texts)
    alike = float(queries @ queries) / total
    scale = between + ((total - alike) / (texts - 1) - 1.0) * within
    correlation = max(float((between - within) / scale), 0.0) if scale > 0 else 0.0
    effect = 1.0 + (alike - 1.0) * correlation
    return Dependence(correlation, effect, total / effect)
