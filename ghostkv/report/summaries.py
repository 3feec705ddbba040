"""Summaries that several chapters show: means beside their spread and their worst case."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ghostkv.report.expressions import RISKS, at_target, weighted
from ghostkv.report.numbers import percent
from ghostkv.report.results import Results


@dataclass(frozen=True)
class Metric:
    """A column of the frontier's tables, as readers meet it."""

    name: str  # of the column
    label: str
    format: str  # of `ghostkv.report.numbers`
    more_is_better: bool = False  # which end of its range is the worst case


ELIMINATION = Metric("elimination", "Elimination (share of cold keys)", "percent", True)
FER = Metric("fer", "FER (share of the exact top-k keys lost)", "percent")
MASS = Metric("dropped_mass_mean", "Dropped mass, mean over queries", "percent")
OUTPUT = Metric("output_error_mean", "Output error, mean over queries", "percent")
BYTES = Metric("bytes_ratio", "Bytes ratio, per head", "ratio")
BYTES_GQA = Metric("bytes_ratio_gqa", "Bytes ratio, GQA-true", "ratio")
METRICS = (
    ELIMINATION,
    FER,
    Metric("fer_cold", "FER over the cold top-k keys alone", "percent"),
    MASS,
    Metric("dropped_mass_p99", "Dropped mass, p99 query of the worst text", "percent"),
    OUTPUT,
    Metric("output_error_p99", "Output error, p99 query of the worst text", "percent"),
    BYTES,
    BYTES_GQA,
)
# The metric that a target bounds.
ACHIEVED = {"fer": FER, "dropped_mass": MASS}


@dataclass(frozen=True)
class Promise:
    """What thresholds were calibrated for: a mean loss of one kind, at most so large."""

    metric: str
    target: float

    def __str__(self) -> str:
        return f"{self.risk} ≤ {percent(self.target, 0)}"

    @property
    def risk(self) -> str:
        """The kind of loss in words."""
        return RISKS[self.metric]

    @property
    def achieved(self) -> Metric:
        """What is measured of it on held-out text."""
        return ACHIEVED[self.metric]

    @property
    def rows(self) -> pl.Expr:
        """Rows of operating points that were chosen for it."""
        return at_target(self.metric, self.target)


def promises(results: Results) -> list[Promise]:
    """The smallest target of each kind of loss that the config has targets for."""
    found = {metric: results.tightest(metric) for metric in ACHIEVED}
    return [Promise(metric, target) for metric, target in found.items() if target is not None]


def operating_point(results: Results, promise: Promise, oracle: bool = False) -> pl.DataFrame:
    """Rows of `frontier.layer_head`, one a head, of the headline design (or the oracle) calibrated for a promise."""
    who = results.is_oracle if oracle else results.is_headline
    return results.table("frontier.layer_head").filter(who, promise.rows)


def points_by_text(results: Results, promise: Promise) -> pl.DataFrame:
    """Rows of `frontier.points`, one a head and held-out text, of the headline design calibrated for a promise."""
    return results.table("frontier.points").filter(results.is_headline, promise.rows)


def mean(frame: pl.DataFrame, column: str) -> float | None:
    """Mean of a column; None where no row has a value."""
    return frame[column].cast(pl.Float64).mean()


def spread(frame: pl.DataFrame, oracle: pl.DataFrame) -> pl.DataFrame:
    """One row a metric: mean, median and standard deviation over heads, the worst head and its name, the
    oracle's mean."""
    rows = []
    for metric in METRICS:
        known = frame.drop_nulls(metric.name)
        if known.is_empty():
            continue
        values = known[metric.name].cast(pl.Float64)
        lowest = worst(known, metric)
        rows.append(
            {
                "metric": metric.label,
                "format": metric.format,
                "mean": values.mean(),
                "median": values.median(),
                "deviation": values.std() if len(values) > 1 else None,
                "worst": lowest[metric.name],
                "where": head_name(lowest),
                "oracle": mean(oracle, metric.name),
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def head_name(row: dict) -> str:
    """Where a row was measured."""
    return f"layer {row['layer']}, head {row['head']}"


def worst(frame: pl.DataFrame, metric: Metric) -> dict:
    """The row with the worst value of a metric."""
    known = frame.drop_nulls(metric.name)
    return known.sort(metric.name, descending=not metric.more_is_better, maintain_order=True).row(
        0, named=True
    )


def pooled_curve(results: Results, rows: pl.Expr, by: list[str]) -> pl.DataFrame:
    """Held-out sweep at equal theta, pooled over heads and texts (queries weigh alike) within each group of
    `by`."""
    names = ["elimination", "fer", "dropped_mass_mean", "output_error_mean", "bytes_ratio", "bytes_ratio_gqa"]
    return (
        results.scan("frontier.sweep")
        .filter(pl.col("role") == "held_out", rows)
        .select([*by, "theta", "queries", *names])
        .group_by([*by, "theta"], maintain_order=True)
        .agg(*map(weighted, names), pl.len().alias("head_texts"))
        .sort([*by, "theta"])
        .collect()
    )


def among(results: Results) -> str:
    """The heads that codecs are compared in."""
    heads, layers = results.compared_heads, len(results.job.compared_layers)
    every = "" if heads == results.heads else f" of {layers} of {len(results.job.layers)} layers"
    return f"{heads} heads{every}"


def codec_order(results: Results, present: pl.Series) -> list[str]:
    """The codecs of a column in the config's order, the oracle last."""
    listed = [codec["name"] for codec in results.config["sketch"]["codecs"]]
    rest = sorted(set(present) - set(listed))
    return [name for name in [*listed, *rest] if name in set(present)]


def calibration_queries(results: Results) -> int:
    """Queries of one head that thresholds were chosen on, over all threshold texts."""
    rows = results.scan("frontier.sweep").filter(
        pl.col("role") == "threshold", results.is_headline, pl.col("layer") == pl.col("layer").min()
    )
    return rows.select("text", "queries").unique().select(pl.col("queries").sum()).collect().item()
