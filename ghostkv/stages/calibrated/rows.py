"""One design and rule on all texts of a KV head: risk curves, and the columns of its calibrated points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.elimination.frontier import Design, Estimates, GroupView, RuleSweep, sweep_rule
from ghostkv.elimination.grid import Grid
from ghostkv.elimination.metrics import per_query
from ghostkv.elimination.summaries import point_queries, summarise
from ghostkv.elimination.sweep import Sweep, sweep
from ghostkv.elimination.text_view import TextEstimates, TextSweep, TextView, counted
from ghostkv.stages.calibrated.compensated_sweep import OutputErrors, output_errors, tail
from ghostkv.stages.calibrated.conformal import CalibratedThresholds, Goal, group_statistic


@dataclass(frozen=True)
class Curves:
    """Every threshold of one decision on one text."""

    view: TextView
    swept: TextSweep
    grid: Grid
    risks: dict[str, np.ndarray]  # shape [group, queries, thetas]: by `Goal.risk`


def head_curves(estimates: TextEstimates, rule: str, page: int | None) -> Curves:
    """Curves of each head's own decision.

    Parameters
    ----------
    page : int or None
        Keys per page mean of the output errors with compensation, 0 for none; None leaves all output errors out.
    """
    grid, blocks, errors = estimates.view.setting.grids[rule], [], []
    for view in estimates.view:
        known = estimates.on(view)
        # Output errors of both kinds come from one pass of their own, so the sweep needs no values.
        plain = replace(view, wide=replace(view.wide, values=None), outputs=None)
        swept = sweep_rule(plain, known, rule, estimates.view.setting)
        if page is not None and view.values is not None:
            errors.append(_output_errors(view, known, swept, grid, page))
        blocks.append(counted(swept))
    joined = estimates.joined(rule, blocks)
    risks = {name: joined.rates[name] for name in ("fer", "dropped_mass")}
    for name in ("none", "mean", "pages") if errors else ():
        found = [getattr(one, name) for one in errors]
        if found[0] is not None:
            risks[f"output_error_{name}"] = np.concatenate(found, axis=1) if len(found) > 1 else found[0]
    return Curves(estimates.view, joined, grid, risks)


def _output_errors(
    view: GroupView, known: Estimates, swept: RuleSweep, grid: Grid, page: int
) -> OutputErrors:
    stand_in = tail(known.scores, view.exact.lse, view.values, view.visible, page, total=view.wide.sums)
    return output_errors(
        swept.statistic, view.exact.mass, stand_in, view.visible, grid, view.values, view.outputs
    )


def group_curves(own: Curves, offset: np.ndarray, grid: Grid) -> Curves:
    """Curves of a decision that the group takes together.

    Parameters
    ----------
    own : Curves
        The heads' own.
    offset : ndarray of float32, shape [group]
        What each head's statistic is measured from.
    """
    counts = []
    for view, compared in own.swept.blocks():
        start, stop = view.visible.start, view.visible.stop
        out = np.empty_like(compared)
        group_statistic(compared, offset.astype(np.float32), start, stop, out)
        counts.append(sweep(out, view.exact.mass, view.exact.needed, start, stop, grid))
    joined = Sweep.joined(counts)
    rates = per_query(joined, own.view.relevant, own.view.visible)
    swept = replace(own.swept, counts=joined, rates=rates)
    return Curves(own.view, swept, grid, {name: rates[name] for name in ("fer", "dropped_mass")})


def thetas(grid: Grid, index: np.ndarray) -> np.ndarray:
    """Thresholds of indices; -inf where nothing is eliminated."""
    return np.where(index >= 0, grid.theta[np.maximum(index, 0)], -np.inf)


def at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Curves [group, queries, thetas] at indices [group, choices]; 0 where nothing is eliminated."""
    picked = np.take_along_axis(values, np.maximum(index, 0)[:, None, :], axis=2)
    return np.where((index < 0)[:, None, :], 0.0, picked)


def queries_at(
    curves: Curves, design: Design, found: Sequence[CalibratedThresholds], page: int, shared: bool = False
) -> dict[str, np.ndarray]:
    """Per-query metrics of each calibration, arrays of shape [group, queries, calibrations].

    Beside those of `ghostkv.elimination.summaries.point_queries`: `achieved`, the risk that each goal bounds, and the
    output errors by compensation. Bytes include what compensation reads.

    Parameters
    ----------
    page : int
        Keys per page mean.
    shared : bool
        Whether the heads' survivors are the same anyway, so that there is nothing to unite.
    """
    index = np.stack([one.index for one in found], axis=1)
    view = curves.view
    queries = point_queries(view, curves.swept, design, index, curves.grid, [not shared] * len(found))
    if shared:
        queries["bytes_ratio_gqa"] = queries["bytes_ratio"]
    risks = {name: at(curve, index) for name, curve in curves.risks.items()}
    queries["achieved"] = np.stack([risks[one.goal.risk][..., i] for i, one in enumerate(found)], axis=2)
    for name, column in _ERRORS.items():
        if name in risks:
            queries[column] = risks[name]
    extra = np.stack([compensation_ratio(view, one.goal, page) for one in found], axis=1)
    for name in ("bytes_ratio", "bytes_ratio_gqa"):
        queries[name] = queries[name] + np.where((index < 0)[:, None, :], 0.0, extra)
    return queries


_ERRORS = {
    "output_error_none": "output_error",
    "output_error_mean": "output_error_compensated",
    "output_error_pages": "output_error_pages",
}


def compensation_ratio(view: TextView, goal: Goal, page: int) -> np.ndarray:
    """Bytes that compensation reads over those of the full cache, shape [queries].

    The running mean is one fp16 vector per KV head whatever the context, half a survivor; page means are one
    for each page that holds a cold key.
    """
    width = view.value_dim or view.capture.keys.shape[2]
    share = width / (view.capture.keys.shape[2] + width)  # of a survivor's K and V
    if goal.compensation == "none":
        return np.zeros(len(view.visible.cold))
    if goal.compensation == "mean":
        vectors = (view.visible.cold > 0).astype(float)
    else:
        first, last = view.visible.start // page, (np.maximum(view.visible.stop, 1) - 1) // page
        vectors = np.where(view.visible.cold > 0, last - first + 1, 0)
    return vectors * share / view.visible.visible


def point_columns(curves: Curves, queries: Mapping[str, np.ndarray], chosen=slice(None)) -> dict:
    """Means and tails over the chosen queries; arrays of shape [group, calibrations]."""
    columns = summarise(curves.view, queries, chosen)
    for name in ("achieved", "output_error_compensated", "output_error_pages"):
        if name in queries:
            columns[name if name == "achieved" else f"{name}_mean"] = queries[name][:, chosen].mean(axis=1)
    return columns


def choice_columns(found: Sequence[CalibratedThresholds], heads: np.ndarray, grid: Grid) -> dict:
    """Columns that name each (head, calibration), flattened like arrays of shape [group, calibrations]."""
    index = np.stack([one.index for one in found], axis=1)
    named = {
        "target_metric": [one.goal.metric for one in found],
        "compensation": [one.goal.compensation for one in found],
        "target": [one.goal.target for one in found],
        "guaranteed_if_exchangeable": [one.guaranteed_if_exchangeable for one in found],
        "floor": [one.floor for one in found],
        "calibration_queries": [one.samples for one in found],
    }
    theta = thetas(grid, index)
    return {name: np.tile(np.array(values), len(heads)) for name, values in named.items()} | {
        "theta": np.where(np.isfinite(theta), theta, np.nan),
        "head": np.repeat(heads, len(found)),
    }


def text_columns(curves: Curves, found: Sequence[CalibratedThresholds]) -> dict:
    """Mean and variance over a text's queries of the risk that each calibration bounds; [group, calibrations]."""
    risk = np.stack([at(curves.risks[one.goal.risk], one.index[:, None])[..., 0] for one in found], axis=2)
    spread = risk.var(axis=1, ddof=1) if risk.shape[1] > 1 else np.full_like(risk[:, 0], np.nan)
    return {"risk_mean": risk.mean(axis=1), "risk_variance": spread}


ByText = Mapping[CapturedText, Curves]


def held_out(curves: ByText) -> list[tuple[CapturedText, Curves]]:
    return [(text, one) for text, one in curves.items() if text.role == "held_out"]


def domains_of(curves: ByText, role: str) -> list[str]:
    return list(dict.fromkeys(text.domain for text in curves if text.role == role))


def risks_of(curves: ByText, goal: Goal, role: str, domain: str | None = None) -> list[np.ndarray]:
    """A goal's risk curves on the texts of a role, and of one domain where it is named."""
    return [
        one.risks[goal.risk]
        for text, one in curves.items()
        if text.role == role and domain in (None, text.domain)
    ]


def text_keys(text: CapturedText, curves: Curves) -> dict[str, str | int]:
    return {"text": text.text, "domain": text.domain, "queries": len(curves.view.capture.positions)}
