"""Figures of the chapter on hierarchies."""

from __future__ import annotations

import altair as alt
import polars as pl

from ghostkv.report.charts import line_at, quantity
from ghostkv.report.document import Figure
from ghostkv.report.expressions import in_words
from ghostkv.report.theme import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SEQUENTIAL,
    SKY,
    VERMILION,
    coloured,
    colours,
)

PROVEN, STATISTICAL = "certificate, FER = 0", "statistical, calibrated"
_COLOURS = (GREEN, SKY, PURPLE, BLUE, VERMILION, ORANGE, INK, MUTED)
_SERIES = {PROVEN: BLUE, STATISTICAL: ORANGE}


def measured(heads: pl.DataFrame) -> pl.DataFrame:
    """Rows of held-out text and trace with a name for each promise; what chose an index is left out."""
    named = pl.when(pl.col("certificate") == "topk").then(pl.lit(PROVEN)).otherwise(pl.lit(STATISTICAL))
    return heads.filter(pl.col("role") != "threshold", pl.col("certificate") != "mass").with_columns(
        named.alias("promise"), in_words("index").alias("index_name")
    )


def chosen(heads: pl.DataFrame, aim: str = "reads") -> pl.DataFrame:
    """The certified rows of each KV head's own index, and the statistical ones."""
    own = (pl.col("certificate") == "topk") & (pl.col("mode") == "grown") & pl.col(f"chosen_for_{aim}")
    return measured(heads).filter(own | (pl.col("certificate") == "calibrated"))


def reads_figure(heads: pl.DataFrame) -> Figure:
    """Reads over the flat scan's by context length: a dot a head, the mean as a bar."""
    data = (
        chosen(heads)
        .group_by("promise", "context", "layer", "head", maintain_order=True)
        .agg(pl.col("reads_ratio").mean(), pl.col("keys").mean())
        .sort("promise", "context", "layer", "head")
    )
    means = data.group_by("promise", "context", maintain_order=True).agg(
        pl.col("reads_ratio").mean(), pl.len().alias("heads")
    )
    x = alt.X("context:O", axis=alt.Axis(title="Context length (tokens)", labelAngle=0))
    y = quantity("reads_ratio", "Anchors and records read, over a flat scan's records", alt.Y)
    colour = coloured("promise", _SERIES)
    side = alt.XOffset("promise:N", scale=alt.Scale(domain=list(_SERIES)))
    dots = alt.Chart(data).mark_circle(size=13, opacity=0.35).encode(x=x, y=y, color=colour, xOffset=side)
    bars = (
        alt.Chart(means)
        .mark_tick(thickness=3, size=42, opacity=1)
        .encode(x=x, y=y, color=colour, xOffset=side)
    )
    return Figure(
        "hierarchy_reads",
        "How much of a flat scan is read, by context length",
        alt.layer(line_at(y=0.5, dash=(4, 3)), dots, bars).properties(width=560, height=300),
        pl.concat([data, means], how="diagonal"),
        "A dot is a head (mean over its held-out texts), the bar the mean over heads; the dashed line is one half. "
        "Each KV head uses the index that read least on threshold text. An anchor counts as one read, however many bytes "
        "it has. The statistical variant promises a mean FER and not one of every query; it is measured at the longest "
        "contexts alone.",
        sources=("hierarchy.heads",),
    )


def bytes_figure(heads: pl.DataFrame) -> Figure:
    """Scan bytes against reads of every index at the longest context; a dot a head."""
    data = measured(heads).filter(pl.col("role") == "trace", pl.col("mode") == "grown")
    data = data.with_columns(
        pl.when(pl.col("certificate") == "calibrated")
        .then(pl.lit("statistical: ") + pl.col("index_name"))
        .otherwise(pl.col("index_name"))
        .alias("series")
    ).select("series", "layer", "head", "reads_ratio", "scan_ratio", "bytes_ratio", "flat_bytes_ratio")
    series = sorted(data["series"].unique())
    dots = (
        alt.Chart(data)
        .mark_circle(size=26, opacity=0.6)
        .encode(
            x=quantity("reads_ratio", "Reads over the flat scan's", zero=True),
            y=quantity(
                "scan_ratio", "Scanned bytes over the flat scan's", alt.Y, type="log", padding=10, format="~g"
            ),
            color=coloured("series", colours(series, {}, _COLOURS), columns=3, labelLimit=260),
        )
    )
    half, par = line_at(x=0.5, dash=(4, 3)), line_at(y=1.0, dash=(4, 3), color=VERMILION)
    chart = alt.layer(half, par, dots)
    return Figure(
        "hierarchy_bytes",
        "Reads are bought with bytes",
        chart.properties(width=560, height=320),
        data,
        "Every index on the trace; a dot is a head. Left of the black line less than half of the flat scan's records are "
        "read, below the vermilion line the scan (anchors and record levels, without K and V) costs fewer bytes. An index pays "
        "for itself only below that line.",
        sources=("hierarchy.heads",),
    )


def layers_figure(heads: pl.DataFrame) -> Figure:
    """Reads of each head of the trace as a heat map, certified beside statistical."""
    data = (
        chosen(heads)
        .filter(pl.col("role") == "trace")
        .select("promise", "layer", "head", "index_name", "reads_ratio", "scan_ratio")
        .sort("promise", "layer", "head")
    )
    chart = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=alt.X("head:O", axis=alt.Axis(title="Head", labelAngle=0)),
            y=alt.Y("layer:O", axis=alt.Axis(title="Layer", labelOverlap=True)),
            color=alt.Color(
                "reads_ratio:Q",
                scale=alt.Scale(scheme=SEQUENTIAL, domain=[0, 1], clamp=True, reverse=True),
                legend=alt.Legend(title="Reads", format=".1f"),
            ),
        )
        .properties(width=230, height=alt.Step(12))
        .facet(
            column=alt.Column("promise:N", title=None, header=alt.Header(labelColor=MUTED, labelFontSize=12))
        )
    )
    return Figure(
        "hierarchy_layers",
        "Where an index helps: reads over the flat scan's, head by head",
        chart,
        data,
        "The trace at its full length. Dark cells are heads whose index hardly saves a read.",
        sources=("hierarchy.heads",),
    )
