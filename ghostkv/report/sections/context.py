"""Stage `frontier`: elimination against context length."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from ghostkv.report.document import Block, Chapter, Figure
from ghostkv.report.numbers import percent
from ghostkv.report.results import ORACLE, Results, at_target, words
from ghostkv.report.summaries import TARGET_LABELS
from ghostkv.report.theme import codec_scale, percent_axis

_MEASURES = {
    "elimination": "Elimination",
    "bytes_ratio": "Bytes ratio per head",
    "bytes_ratio_gqa": "Bytes ratio, GQA-true",
}


def build(results: Results) -> Sequence[Block]:
    """One figure for each kind of loss that thresholds were calibrated for."""
    return [
        _figure(results, metric) for metric in ("fer", "dropped_mass") if results.tightest(metric) is not None
    ]


def bands(results: Results, metric: str, target: float) -> pl.DataFrame:
    """Means over heads in each band of positions: over all held-out texts, and of the lowest and highest
    domain."""
    rows = results.table("frontier.context").with_columns(pl.lit("calibrated").alias("method"))
    rows = rows.filter(at_target(metric, target), results.is_headline | results.is_oracle)
    measures = [*_MEASURES, metric if metric == "fer" else "dropped_mass_mean"]
    means = [pl.col(name).cast(pl.Float64).mean() for name in measures]
    by_domain = rows.group_by("codec", "band_start", "band_stop", "domain", maintain_order=True).agg(means)
    edges = [pl.col(name).min().alias(f"{name}_low") for name in _MEASURES] + [
        pl.col(name).max().alias(f"{name}_high") for name in _MEASURES
    ]
    data = rows.group_by("codec", "band_start", "band_stop", maintain_order=True).agg(
        *means, pl.col("cold_keys").mean(), pl.col("queries").max()
    )
    return data.join(
        by_domain.group_by("codec", "band_start", "band_stop", maintain_order=True).agg(edges),
        on=["codec", "band_start", "band_stop"],
    ).sort("codec", "band_start")


def _figure(results: Results, metric: str) -> Figure:
    target = results.tightest(metric)
    data = bands(results, metric, target).with_columns(
        ((pl.col("band_start") * pl.col("band_stop")).cast(pl.Float64).sqrt()).alias("centre"),
        pl.format("{}–{}", "band_start", "band_stop").alias("band"),
        pl.col("codec").map_elements(words, return_dtype=pl.String).alias("label"),
    )
    domain = [name for name in (results.headline["codec"], ORACLE) if name in set(data["codec"])]
    panels = [_panel(data, name, title, domain) for name, title in _MEASURES.items()]
    return Figure(
        f"context_{metric}",
        f"Elimination against context length, thresholds calibrated for {TARGET_LABELS[metric]} ≤ "
        f"{percent(target, 0)}",
        alt.hconcat(*panels, spacing=16),
        data.drop("centre", "label"),
        "Each dot pools the queries of one band of positions, so the horizontal axis is how many keys a "
        "query sees; the band around a line runs from the lowest to the highest text domain. Thresholds were "
        f"chosen at positions from {results.frontier['headline_start']:,} on and used unchanged before, "
        "where they are therefore not calibrated. Early positions read relatively more because sinks and hot "
        "window, which are always read, are a larger part of a short context. Whether the trend continues "
        f"beyond {data['band_stop'].max():,} tokens is not measured here.",
    )


def _panel(data: pl.DataFrame, name: str, title: str, domain: list[str]) -> alt.LayerChart:
    ticks = sorted({*data["band_start"], *data["band_stop"]})
    x = alt.X(
        "centre:Q",
        axis=alt.Axis(
            title="Position of the query (tokens)",
            values=ticks,
            grid=False,
            labelExpr="format(datum.value, ',')",
        ),
    )
    x = x.scale(type="log", domain=[ticks[0], ticks[-1]], nice=False)
    top = 1.0 if name == "elimination" else max(1.0, float(data[f"{name}_high"].max() or 1.0))
    axis = (
        percent_axis(None, tickCount=5)
        if name == "elimination"
        else alt.Axis(title=None, format="~g", tickCount=5)
    )
    y = alt.Y(f"{name}:Q", axis=axis, scale=alt.Scale(domain=[0, top]))
    colour = alt.Color(
        "label:N",
        scale=codec_scale(domain),
        legend=alt.Legend(
            title=None, orient="top", symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=3
        ),
    )
    base = alt.Chart(data).encode(x=x, color=colour)
    area = base.mark_area(opacity=0.16).encode(y=alt.Y(f"{name}_low:Q", axis=axis), y2=f"{name}_high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y)
    dots = base.mark_circle(size=40, opacity=1).encode(y=y)
    return alt.layer(area, line, dots).properties(width=182, height=220, title=alt.Title(title, fontSize=12))


CHAPTER = Chapter("context", "Context length", build, needs=("frontier.context",))
