"""Stage `frontier`: elimination against context length."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from ghostkv.report.charts import logarithmic, quantity
from ghostkv.report.document import Block, Chapter, Figure, Prose
from ghostkv.report.expressions import in_words, means
from ghostkv.report.results import ORACLE, Results
from ghostkv.report.summaries import Promise, promises
from ghostkv.report.theme import codec_colours, coloured

_MEASURES = {
    "elimination": "Elimination",
    "bytes_ratio": "Bytes ratio per head",
    "bytes_ratio_gqa": "Bytes ratio, GQA-true",
}


def build(results: Results) -> Sequence[Block]:
    """One figure for each kind of loss that thresholds were calibrated for."""
    text = "The share that can be eliminated depends on how many keys a query sees, which is its position."
    return [Prose(text), *(_figure(results, promise) for promise in promises(results))]


def _bands(results: Results, promise: Promise) -> pl.DataFrame:
    """Means over heads in each band of positions: over all held-out texts, and of the lowest and highest
    domain."""
    rows = results.table("frontier.context").with_columns(pl.lit("calibrated").alias("method"))
    rows = rows.filter(promise.rows, results.is_headline | results.is_oracle)
    measured = means(*_MEASURES, promise.achieved.name)
    band = ["codec", "band_start", "band_stop"]
    data = rows.group_by(band).agg(measured, pl.col("cold_keys").mean(), pl.col("queries").max())
    domains = rows.group_by(*band, "domain").agg(measured)
    edges = domains.group_by(band).agg(
        pl.col(*_MEASURES).min().name.suffix("_low"), pl.col(*_MEASURES).max().name.suffix("_high")
    )
    return data.join(edges, on=band).sort("codec", "band_start")


def _figure(results: Results, promise: Promise) -> Figure:
    metric = promise.metric
    data = _bands(results, promise).with_columns(
        ((pl.col("band_start") * pl.col("band_stop")).cast(pl.Float64).sqrt()).alias("centre"),
        pl.format("{}–{}", "band_start", "band_stop").alias("band"),
        in_words("codec").alias("label"),
    )
    domain = [name for name in (results.headline["codec"], ORACLE) if name in set(data["codec"])]
    panels = [_panel(data, name, title, domain) for name, title in _MEASURES.items()]
    return Figure(
        f"context_{metric}",
        f"Elimination against context length, thresholds calibrated for {promise}",
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
    about = {"values": ticks, "grid": False, "labelExpr": "format(datum.value, ',')"}
    x = quantity("centre", "Position of the query (tokens)", **about, **logarithmic(ticks[0], ticks[-1]))
    shares = name == "elimination"
    top = 1.0 if shares else max(1.0, float(data[f"{name}_high"].max() or 1.0))
    unit = {"percent": True} if shares else {"format": "~g"}
    y = quantity(name, None, alt.Y, domain=[0, top], tickCount=5, **unit)
    stroke = {"symbolType": "stroke", "symbolOpacity": 1, "symbolStrokeWidth": 3}
    colour = coloured("label", codec_colours(domain), **stroke)
    base = alt.Chart(data).encode(x=x, color=colour)
    area = base.mark_area(opacity=0.16).encode(y=f"{name}_low:Q", y2=f"{name}_high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y)
    dots = base.mark_circle(size=40, opacity=1).encode(y=y)
    return alt.layer(area, line, dots).properties(width=182, height=220, title=alt.Title(title, fontSize=12))


CHAPTER = Chapter(
    "context", "Context length", build, front=("context_dropped_mass",), needs=("frontier.context",)
)
