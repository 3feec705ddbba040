"""Charts of calibrated thresholds, and the rows that several tables share."""

from __future__ import annotations

import altair as alt
import polars as pl

from ghostkv.report.charts import line_at, logarithmic, quantity
from ghostkv.report.document import Figure
from ghostkv.report.expressions import aimed_at, in_words, means, promised
from ghostkv.report.numbers import percent
from ghostkv.report.results import Results, words
from ghostkv.report.theme import BLUE, MUTED, ON_BRIGHT, ORANGE, VERMILION, WIDTH, coloured, top_legend

INSTEAD = {"none": "nothing", "mean": "running mean of V", "pages": "page means of V"}


def summary(results: Results, *rows: pl.Expr, domain: str = "all") -> pl.DataFrame:
    """Rows of the summary over one domain."""
    return results.table("calibrated.summary").filter(pl.col("domain") == domain, *rows)


def own_codec(results: Results) -> pl.Expr:
    """Rows of the headline codec whose heads decide for themselves."""
    return (pl.col("codec") == results.headline["codec"]) & (pl.col("decision") == "head")


def output_goals(results: Results) -> pl.DataFrame:
    """Points that were calibrated for an output error."""
    return summary(results, own_codec(results), pl.col("target_metric") == "output_error")


def compensation_figure(results: Results) -> Figure:
    """Bytes of each layer by what stands in for eliminated values."""
    target = results.config["calibrated"]["targets"]["output_error"][0]
    data = (
        results.table("calibrated.calibrated")
        .filter(
            own_codec(results),
            aimed_at("output_error", target),
            pl.col("code_bytes") == results.headline["bytes"],
        )
        .group_by("rule", "layer", "compensation", maintain_order=True)
        .agg(means("elimination", "achieved", "bytes_ratio"))
        .with_columns(pl.col("compensation").replace(INSTEAD).alias("instead"), in_words("rule"))
    )
    order = [name for kind, name in INSTEAD.items() if kind in set(data["compensation"])]
    named = dict(zip(order, (MUTED, BLUE, ORANGE), strict=False))
    chart = (
        alt.Chart(data)
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=25))
        .encode(
            x=quantity("layer", "Layer", tickMinStep=1, grid=False),
            y=quantity("bytes_ratio", "Bytes ratio per head", alt.Y, format="~g"),
            color=coloured("instead", named, title="In the place of eliminated values"),
        )
        .properties(width=(WIDTH - 60) // 2, height=230)
        .facet(column=alt.Column("rule:N", header=alt.Header(title=None)))
    )
    return Figure(
        "calibrated_compensation",
        f"What an output error of {percent(target, 0)} costs, layer by layer",
        chart,
        data.drop("instead"),
        "Lower is better. Thresholds are calibrated per head for a mean output error of "
        f"{percent(target, 0)} ({results.design}); a point is the mean of a layer's heads on held-out texts. "
        "A layer that stands out is dense: its heads spread their attention over most keys, and a mean in "
        "their place helps it most without making it cheap.",
        sources=("calibrated.calibrated",),
    )


def cross_domain_figure(results: Results) -> Figure:
    """Achieved over promised risk, domain by domain."""
    data = (
        results.table("calibrated.cross_domain")
        .with_columns((pl.col("achieved") / pl.col("target")).cast(pl.Float64).alias("share"))
        .group_by(
            "rule", "target_metric", "target", "method", "calibrated_on", "tested_on", maintain_order=True
        )
        .agg(
            pl.col("share").mean().alias("mean"),
            pl.col("share").max().alias("worst"),
            means("elimination"),
            pl.len().alias("heads"),
        )
        .with_columns(
            pl.format("{}, {}", promised(), in_words("rule")).alias("promise"),
            pl.format("{} ({})", pl.col("mean").round(2), pl.col("worst").round(1)).alias("label"),
        )
    )
    axis = alt.Axis(grid=False, labelAngle=0)
    base = alt.Chart(data).encode(
        x=alt.X("tested_on:N", title="Tested on", axis=axis),
        y=alt.Y("calibrated_on:N", title="Calibrated on", axis=axis),
    )
    colour = alt.Color(
        "mean:Q",
        scale=alt.Scale(domain=[0, 1, 2], range=[BLUE, "#f7f7f7", VERMILION], clamp=True),
        legend=top_legend(title="Achieved / target"),
    )
    size = alt.Step(26)
    cells = base.mark_rect().encode(color=colour) + base.mark_text(color=ON_BRIGHT, fontSize=10).encode(
        text="label:N"
    )
    chart = cells.properties(width=(WIDTH - 110) // 2, height=size).facet(
        facet=alt.Facet("promise:N", header=alt.Header(title=None, labelFontWeight="bold")), columns=2
    )
    small = data.filter(pl.col("method") == "plug_in").height
    note = (
        " One domain's queries are too few to promise the smaller target (its 1/(n+1) lies above it), so "
        "there theta is a plug-in: the mean calibration risk itself is at the target, without correction."
        if small
        else ""
    )
    return Figure(
        "calibrated_cross_domain",
        "Calibrated on one domain, tested on another",
        chart,
        data.drop("promise", "label"),
        "Achieved risk over target, mean over heads, in brackets the worst head; 1 keeps the promise "
        "exactly, red breaks it. Rows are the domain of the threshold text, columns that of the held-out "
        f"text ({results.design}). Only the diagonal could be promised: off it, queries are not "
        f"exchangeable.{note}",
        sources=("calibrated.cross_domain",),
    )


def bands_figure(results: Results) -> Figure:
    """Achieved over promised risk by position."""
    heads = (
        results.table("calibrated.bands")
        .filter(results.is_rule, pl.col("target_metric") != "output_error")
        .with_columns(((pl.col("band_start") + pl.col("band_stop")) / 2).alias("position"))
        .with_columns((pl.col("achieved") / pl.col("target")).cast(pl.Float64).alias("share"))
        .group_by("target_metric", "target", "band_start", "band_stop", "position", "layer", "head")
        .agg(pl.col("share").mean(), means("elimination", "bytes_ratio"))
    )
    data = (
        heads.group_by("target_metric", "target", "band_start", "band_stop", "position")
        .agg(
            pl.col("share").mean().alias("mean"),
            pl.col("share").quantile(0.95, "higher").alias("p95"),
            pl.col("share").max().alias("worst"),
            pl.col("elimination").mean(),
            pl.col("bytes_ratio").mean(),
        )
        .sort("target_metric", "target", "position")
        .with_columns(promised())
    )
    span = logarithmic(data["band_start"].min(), data["band_stop"].max())
    base = alt.Chart(data).encode(
        x=quantity("position", "Position of the query", format="~s", grid=False, **span),
        color=alt.Color("promise:N", legend=top_legend()),
    )
    y = alt.Axis(title="Achieved / target", format="~g")
    chart = base.mark_line(strokeWidth=2, point=True).encode(y=alt.Y("mean:Q", axis=y))
    chart += base.mark_line(strokeDash=[3, 3], strokeWidth=1).encode(y=alt.Y("p95:Q", axis=y))
    start = results.frontier["headline_start"]
    return Figure(
        "calibrated_bands",
        "Whether the promise holds at every position",
        (chart + line_at(y=1.0)).properties(width=WIDTH, height=260),
        data.drop("promise"),
        "Achieved risk over target by the query's position, mean over heads (solid) and 95th percentile of "
        f"heads (dashed), {results.design}, rule {words(results.headline['rule'])}. Thresholds were "
        f"calibrated on queries from position {start} on; earlier ones see fewer keys and were never part of "
        "the promise.",
        sources=("calibrated.bands",),
    )
