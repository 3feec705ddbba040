"""Polars expressions that chapters share: means, names in words, and what a threshold was chosen for."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from ghostkv.report.results import words

# What thresholds are chosen for, as the report calls it.
RISKS = {"fer": "FER", "dropped_mass": "dropped mass", "output_error": "output error"}
# Targets are stored in float32; two of them never lie this close.
_SAME = 1e-6


def means(*columns: str) -> pl.Expr:
    """The mean of each column, summed in float64."""
    return pl.col(*columns).cast(pl.Float64).mean()


def weighted(column: str) -> pl.Expr:
    """The mean over the rows that know it, in which queries weigh alike; None where none does."""
    weight = pl.col("queries").cast(pl.Float64).filter(pl.col(column).is_not_null())
    return (
        ((pl.col(column).cast(pl.Float64) * pl.col("queries")).sum() / weight.sum())
        .fill_nan(None)
        .alias(column)
    )


def in_words(column: str, say: Callable[[str], str] = words) -> pl.Expr:
    """A column of names as the report says them."""
    return pl.col(column).map_elements(say, return_dtype=pl.String)


def near(column: str, value: float) -> pl.Expr:
    """Rows whose value is this one, but for the rounding of float32."""
    return (pl.col(column) - value).abs() < _SAME


def aimed_at(metric: str, target: float) -> pl.Expr:
    """Rows whose threshold was chosen for `metric` <= `target`."""
    return (pl.col("target_metric") == metric) & near("target", target)


def at_target(metric: str, target: float) -> pl.Expr:
    """Those of them that calibration chose, neither the safe points' margin nor hindsight."""
    return aimed_at(metric, target) & (pl.col("method") == "calibrated")


def most(share: str) -> pl.Expr:
    """A share as the largest that is allowed: `≤ 1 %`."""
    return pl.format(
        "≤ {} %", (pl.col(share).cast(pl.Float64) * 100).round(4).cast(pl.String).str.strip_suffix(".0")
    )


def promised(metric: str = "target_metric", target: str = "target") -> pl.Expr:
    """What a threshold promises: `FER ≤ 1 %`."""
    return pl.format("{} {}", pl.col(metric).replace(RISKS), most(target)).alias("promise")
