"""Summaries over queries: means, tails, bytes, and the soundness of margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ghostkv.elimination.frontier import Design, Estimates, GroupView, RuleSweep
from ghostkv.elimination.grid import Grid
from ghostkv.elimination.metrics import bound_errors, bytes_ratio, upper_quantile
from ghostkv.elimination.thresholds import union_survivors

# Metrics that are a mean over queries of a per-query rate.
MEANS = ("elimination", "fer", "dropped_mass", "lost_95", "lost_99")


def sweep_columns(view: GroupView, swept: RuleSweep, design: Design, thetas: slice) -> dict[str, np.ndarray]:
    """Means, tails and bytes over a view's queries; every array has shape [group, thetas]."""
    queries = {name: swept.rates[name][..., thetas] for name in MEANS}
    queries["false"] = swept.counts.false[..., thetas]
    if swept.counts.error is not None:
        queries["output_error"] = swept.counts.error[..., thetas]
    kept = view.visible.cold[:, None] - swept.counts.eliminated[..., thetas]
    queries["bytes_ratio"] = _ratio(view, kept, design)
    columns = summarise(view, queries)
    union = _ratio(view, swept.counts.survivors_union[:, thetas], design).mean(axis=0)
    columns["bytes_ratio_gqa"] = np.broadcast_to(union, columns["bytes_ratio"].shape)
    return columns


def point_queries(
    view: GroupView, swept: RuleSweep, design: Design, index: np.ndarray, grid: Grid, united: Sequence[bool]
) -> dict[str, np.ndarray]:
    """Per-query metrics at chosen thresholds, a threshold per head and choice.

    Parameters
    ----------
    index : ndarray of int, shape [group, choices]
        -1 eliminates nothing.
    united : sequence of bool, length choices
        Whether to unite the group's survivors, each head with its own threshold; else `bytes_ratio_gqa` is NaN.

    Returns
    -------
    dict of ndarray, shape [group, queries, choices]
        The rates, `false`, `output_error` where values are known, `bytes_ratio` and `bytes_ratio_gqa`.
    """
    column, none = np.maximum(index, 0)[:, None, :], (index < 0)[:, None, :]

    def at(values: np.ndarray) -> np.ndarray:
        return np.where(none, 0, np.take_along_axis(values, column, axis=2))

    queries = {name: at(swept.rates[name]) for name in MEANS}
    queries["false"] = at(swept.counts.false)
    if swept.counts.error is not None:
        queries["output_error"] = at(swept.counts.error)
    kept = view.visible.cold[:, None] - at(swept.counts.eliminated)
    queries["bytes_ratio"] = _ratio(view, kept, design)
    theta = np.where(index >= 0, grid.theta[np.maximum(index, 0)], -np.inf).astype(np.float32)
    queries["bytes_ratio_gqa"] = np.full(kept.shape, np.nan)
    for choice in np.flatnonzero(united):
        union = union_survivors(swept.statistic, theta[:, choice], view.visible.start, view.visible.stop)
        queries["bytes_ratio_gqa"][..., choice] = _ratio(view, union[:, None], design)[:, 0]
    return queries


def summarise(
    view: GroupView, queries: Mapping[str, np.ndarray], chosen: np.ndarray | slice = slice(None)
) -> dict[str, np.ndarray]:
    """Means and tails over the chosen queries of arrays [group, queries, ...], as arrays [group, ...]."""
    picked = {name: values[:, chosen] for name, values in queries.items()}
    means = [name for name in (*MEANS, "bytes_ratio", "bytes_ratio_gqa") if name in picked]
    columns = {name: picked[name].mean(axis=1) for name in means}
    columns["dropped_mass_mean"] = columns.pop("dropped_mass")
    columns["dropped_mass_p99"] = upper_quantile(picked["dropped_mass"], 0.99, axis=1)
    columns["dropped_mass_max"] = picked["dropped_mass"].max(axis=1)
    relevant = view.relevant["top_k_cold"][:, chosen].sum(axis=1)[:, None]
    false = picked["false"].sum(axis=1)
    # Undefined, hence null in the table, where no relevant key is cold.
    columns["fer_cold"] = np.where(relevant > 0, false / np.maximum(relevant, 1), np.nan)
    if "output_error" in picked:
        columns["output_error_mean"] = picked["output_error"].mean(axis=1)
        columns["output_error_p99"] = upper_quantile(picked["output_error"], 0.99, axis=1)
    return columns


def bound_columns(view: GroupView, estimates: Estimates) -> dict[str, float]:
    """How far a codec's estimates are off on a view, and whether any error exceeds its margin."""
    pairs, violations, squared, margins, total, total_squared = bound_errors(
        view.exact.scores, estimates.scores, estimates.weight, estimates.radius, view.visible
    )
    count = max(pairs, 1)
    return {
        "pairs": pairs,
        "violations": violations,
        "score_rmse": float(np.sqrt(squared / count)),
        "margin_mean": margins / count,
        "score_spread": float(np.sqrt(max(total_squared / count - (total / count) ** 2, 0.0))),
    }


def _ratio(view: GroupView, kept: np.ndarray, design: Design) -> np.ndarray:
    return bytes_ratio(view.visible, kept, design.record_bytes, view.capture.keys.shape[2], view.value_dim)
