"""Summaries over queries: means, tails, bytes, and the soundness of margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.elimination.attention import ColdRange
from ghostkv.elimination.frontier import Design
from ghostkv.elimination.grid import Grid
from ghostkv.elimination.metrics import bytes_ratio, upper_quantile
from ghostkv.elimination.sweep import Sweep

# Metrics that are a mean over queries of a per-query rate.
MEANS = ("elimination", "fer", "dropped_mass", "lost_95", "lost_99")


class Measured(Protocol):
    """What summaries ask of a view, be it of some queries (`GroupView`) or of a text in blocks (`TextView`)."""

    capture: LayerCapture
    visible: ColdRange
    relevant: dict[str, np.ndarray]

    @property
    def value_dim(self) -> int:
        """Width of a value; 0 where there are none."""


class Swept(Protocol):
    """What summaries ask of a sweep, likewise (`RuleSweep`, `TextSweep`)."""

    counts: Sweep
    rates: dict[str, np.ndarray]

    def union(self, thetas: Mapping[int, np.ndarray], visible: ColdRange) -> dict[int, np.ndarray]:
        """Cold keys that a head of the group keeps under each choice's thetas [group]; int64 [queries]."""


def sweep_columns(view: Measured, swept: Swept, design: Design, thetas: slice) -> dict[str, np.ndarray]:
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
    view: Measured, swept: Swept, design: Design, index: np.ndarray, grid: Grid, united: Sequence[bool]
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
    unions = swept.union({choice: theta[:, choice] for choice in np.flatnonzero(united)}, view.visible)
    for choice, union in unions.items():
        queries["bytes_ratio_gqa"][..., choice] = _ratio(view, union[:, None], design)[:, 0]
    return queries


def summarise(
    view: Measured, queries: Mapping[str, np.ndarray], chosen: np.ndarray | slice = slice(None)
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


def bound_columns(errors: Sequence[float]) -> dict[str, float]:
    """How far a codec's estimates are off, and whether any error exceeds its margin, from what `bound_errors` returns."""
    pairs, violations, squared, margins, total, total_squared = errors
    count = max(pairs, 1)
    return {
        "pairs": pairs,
        "violations": violations,
        "score_rmse": float(np.sqrt(squared / count)),
        "margin_mean": margins / count,
        "score_spread": float(np.sqrt(max(total_squared / count - (total / count) ** 2, 0.0))),
    }


def _ratio(view: Measured, kept: np.ndarray, design: Design) -> np.ndarray:
    return bytes_ratio(view.visible, kept, design.record_bytes, view.capture.keys.shape[2], view.value_dim)
