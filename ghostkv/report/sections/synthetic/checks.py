"""Charts of closed forms: what was measured of generated tensors beside what must come out."""

from __future__ import annotations

import altair as alt
import polars as pl

from ghostkv.report.document import Figure
from ghostkv.report.expressions import in_words
from ghostkv.report.results import Results, words
from ghostkv.report.theme import BLUE, INK, ORACLE_GREY, VERMILION, codec_colours, coloured, percent_axis
from ghostkv.stages.peers.tables import interval

_PANEL = {"width": 170, "height": 150}


def design_named() -> pl.Expr:
    """Codec and size in words; the oracle has no size."""
    name = in_words("codec")
    return (
        pl.when(pl.col("code_bytes") > 0)
        .then(pl.concat_str(name, pl.lit(", "), pl.col("code_bytes").cast(pl.String), pl.lit(" B")))
        .otherwise(name)
    )


def panels(data: pl.DataFrame, draw) -> alt.ConcatChart:
    """One panel a generator, three in a row, axes shared; `draw` makes a panel of its rows and whether it is first in
    its row."""
    names = data["generator"].unique(maintain_order=True).to_list()
    made = [
        draw(data.filter(pl.col("generator") == name), number % 3 == 0).properties(
            **_PANEL, title=alt.Title(words(name), fontSize=12)
        )
        for number, name in enumerate(names)
    ]
    return alt.concat(*made, columns=3, spacing=14)


def overlap_figure(results: Results) -> Figure:
    """Top-k overlap against bytes of code, by generator and codec."""
    top = _middle(results.config["synthetic"]["top"])
    checks = results.table("synthetic.checks")
    keys = ["generator", "codec", "code_bytes"]
    data = (
        results.table("synthetic.audit")
        .filter(pl.col("measure") == "overlap", pl.col("at") == top)
        .group_by(keys, maintain_order=True)
        .agg(pl.col("value"), pl.col("expected").mean(), pl.col("kind").first())
        .with_columns(
            pl.col("value").map_elements(lambda x: dict(zip(("mean", "low", "high"), interval(list(x)), strict=True)),
                return_dtype=pl.Struct({"mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}))
        )
        .unnest("value")
        .with_columns(in_words("codec").alias("label"))
    )  # fmt: skip
    codecs = codec_colours(data["codec"].unique(maintain_order=True))
    sizes = sorted(data["code_bytes"].unique().to_list())
    known = checks.filter(pl.col("measure") == "overlap", pl.col("kind") == "exact").height

    def draw(rows: pl.DataFrame, first: bool) -> alt.LayerChart:
        x = alt.X(
            "code_bytes:Q",
            scale=alt.Scale(type="log", base=2),
            axis=alt.Axis(title="Bytes of code", values=sizes),
        )
        y = alt.Y(
            "mean:Q",
            scale=alt.Scale(domain=[0, 1]),
            axis=percent_axis("Overlap" if first else None, tickCount=5),
        )
        base = alt.Chart(rows).encode(x=x, color=coloured("label", codecs, symbolStrokeWidth=3))
        ticks = (
            alt.Chart(rows.drop_nulls("expected"))
            .mark_point(shape="circle", size=70, strokeWidth=1.2, color=INK, filled=False)
            .encode(x=x, y="expected:Q")
        )
        return alt.layer(
            base.mark_line(strokeWidth=2).encode(y=y), base.mark_rule().encode(y="low:Q", y2="high:Q"), ticks
        )

    return Figure(
        "synthetic_overlap",
        f"How many of the best {top} keys a sketch finds",
        panels(data, draw),
        data.drop("label"),
        f"Share of a query's {top} best cold keys that are among as many best estimates, against the bytes of code. Lines: "
        "measured, with a 95 % Student interval over draws. Open circles: what a closed form expects, where one is known "
        f"({known} exact ones over all tops); they lie on the lines. The transform code's circles take its estimates as "
        "normal; its coarse cells clip the longest keys, so it finds slightly fewer. Isotropic keys leave a codec nothing "
        "to exploit: there a projection finds little at any size, as the formula says.",
    )


def deviation_figure(checks: pl.DataFrame) -> Figure:
    """Every comparison with a closed form, by measure."""
    data = checks.filter(pl.col("sigma").is_not_null()).with_columns(
        in_words("measure").alias("label"),
        pl.col("sigma").clip(upper_bound=6.0).alias("drawn"),
    )
    order = ["overlap", "spearman", "squared error", "elimination", "fer"]
    x = alt.X(
        "drawn:Q",
        scale=alt.Scale(domain=[0, 6]),
        axis=alt.Axis(title="Deviation in standard errors", values=list(range(7))),
    )
    colour = coloured("kind", {"exact": BLUE, "approximate": ORACLE_GREY})
    points = (
        alt.Chart(data)
        .mark_tick(thickness=1.5, size=15, opacity=0.55)
        .encode(x=x, y=alt.Y("label:N", sort=order, title=None), color=colour)
    )
    parts = [points]
    if data.height:
        limit = alt.Chart(data.head(1)).mark_rule(color=VERMILION, strokeDash=[4, 3], strokeWidth=1.5)
        parts.append(limit.encode(x="limit:Q"))
    return Figure(
        "synthetic_deviation",
        "Measured against expected: every closed form",
        alt.layer(*parts).properties(width=560, height=alt.Step(24)),
        data.drop("label", "drawn"),
        "Each tick is one generator, codec, size and place. The dashed line is what the worst of all exact comparisons "
        "passes once in a hundred runs. Exact forms (blue) must stay left of it; approximate ones (grey) need not, and "
        "show how far the approximation carries. Ticks at the right edge lie there or beyond.",
    )


def _middle(values: list[int]) -> int:
    """The configured top nearest to 32, which relevance is defined by."""
    return min(values, key=lambda value: abs(value - 32))
