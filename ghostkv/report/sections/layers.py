"""Stage `frontier`: where in the model elimination is possible, and how well records know scores there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import polars as pl

from ghostkv.report.charts import layer_strip
from ghostkv.report.document import Block, Column, Figure, Section, Table
from ghostkv.report.numbers import percent
from ghostkv.report.results import Results, words
from ghostkv.report.summaries import ACHIEVED, TARGET_LABELS, operating_point
from ghostkv.report.theme import percent_axis


def build(results: Results) -> Sequence[Block]:
    """Every layer at both operating points, and the records' errors."""
    metrics = [metric for metric in ACHIEVED if results.tightest(metric) is not None]
    return [*(_by_layer(results, metric) for metric in metrics), _bounds_table(results)]


def _by_layer(results: Results, metric: str) -> Figure:
    target = results.tightest(metric)
    own, oracle = (
        operating_point(results, metric, target),
        operating_point(results, metric, target, oracle=True),
    )
    loss = ACHIEVED[metric]
    panels, frames = [], []
    titles = {
        "elimination": "Elimination",
        loss: f"Measured {TARGET_LABELS[metric]}",
        "bytes_ratio": "Bytes ratio per head",
    }
    for position, (column, title) in enumerate(titles.items()):
        data = _layer_spread(own, oracle, column)
        frames.append(data.select(pl.lit(column).alias("measured"), pl.all()))
        plain = alt.Axis(title=None, format="~g", tickCount=3)
        axis = plain if column == "bytes_ratio" else percent_axis(None, tickCount=4)
        lowest = math.floor(10 * float(data["low"].min())) / 10
        scale = alt.Scale(domain=[lowest, 1]) if column == "elimination" else alt.Scale(zero=True)
        panels.append(
            layer_strip(data, title, axis, scale, target if column == loss else None, position == 0, 185)
        )
    data = pl.concat(frames)
    return Figure(
        f"layers_{metric}",
        f"Layer by layer, thresholds calibrated for {TARGET_LABELS[metric]} ≤ {percent(target, 0)}",
        alt.hconcat(*panels, spacing=14).resolve_scale(y="shared"),
        data,
        "A row is a layer: the dot is the mean of its heads, the bar runs from the lowest to the highest "
        "head, the grey tick is the "
        f"mean for exact scores. {results.design.capitalize()}, rule `{results.headline['rule']}`, held-out "
        "texts. The dotted line "
        "is the target: bars that cross it are heads whose calibration did not carry over to unseen text. "
        "Layers whose bars lie "
        "low on the left are dense: there attention itself is spread out, the grey tick moves along, and no "
        "codec will help. The "
        "elimination axis does not start at zero.",
    )


def _layer_spread(own: pl.DataFrame, oracle: pl.DataFrame, column: str) -> pl.DataFrame:
    value = pl.col(column).cast(pl.Float64)
    means = oracle.group_by("layer", maintain_order=True).agg(value.mean().alias("oracle"))
    return (
        own.group_by("layer", maintain_order=True)
        .agg(value.min().alias("low"), value.mean().alias("mean"), value.max().alias("high"))
        .join(means, on="layer", how="left")
        .sort("layer")
    )


def _bounds_table(results: Results) -> Table:
    data = (
        results.table("frontier.bounds")
        .group_by("codec", "code_bytes", "record_bytes", maintain_order=True)
        .agg(
            pl.col("pairs", "violations").sum(),
            *[pl.col(name).cast(pl.Float64).mean() for name in ("score_rmse", "margin_mean", "score_spread")],
        )
        .with_columns(
            (pl.col("margin_mean") / pl.col("score_rmse")).alias("looseness"),
            pl.col("codec").map_elements(words, return_dtype=pl.String),
        )
    )
    return Table(
        "bounds",
        "How well a record knows a score. The error is the root mean square of estimate minus exact score, "
        "in score units (the spread "
        "of the scores themselves is beside it); the margin is what Cauchy-Schwarz proves of it. A "
        "violation, an error above its "
        "margin, would be a fault of the lab: it must be 0. A margin many times the error is sound but "
        "loose.",
        data,
        {
            "codec": Column("Codec"),
            "code_bytes": Column("Code bytes", "integer"),
            "record_bytes": Column("Record bytes", "integer"),
            "score_spread": Column("Score SD", "number"),
            "score_rmse": Column("Error", "number"),
            "margin_mean": Column("Margin", "number"),
            "looseness": Column("Margin / error", "factor"),
            "pairs": Column("Pairs checked", "integer"),
            "violations": Column("Violations", "integer"),
        },
    )


SECTION = Section("layers", "Layer by layer", build, needs=("frontier.layer_head", "frontier.bounds"))
