"""Charts of generated tensors: closed forms, trade-off, bytes by context, and a decode step by step."""

from __future__ import annotations

import altair as alt
import polars as pl

from ghostkv.report.charts import DECADES, FLOOR, LOSS_TOP, floored, line_at, quantity
from ghostkv.report.document import Figure
from ghostkv.report.expressions import at_target, in_words
from ghostkv.report.numbers import percent
from ghostkv.report.results import ORACLE, Results, words
from ghostkv.report.theme import (
    BLUE,
    GREEN,
    INK,
    ORACLE_GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    codec_colours,
    coloured,
    colours,
)
from ghostkv.stages.peers.tables import interval

_INTERVAL = pl.Struct({"mean": pl.Float64, "low": pl.Float64, "high": pl.Float64})
_PANEL = {"width": 170, "height": 150}
_SIZES = (SKY, BLUE, GREEN, "#20455f", PURPLE, ORANGE)
_GENERATORS = (INK, BLUE, VERMILION, GREEN, PURPLE, ORANGE)


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
    known = checks.filter(pl.col("measure") == "overlap", pl.col("kind") == "exact").height
    rows = results.table("synthetic.audit").filter(pl.col("measure") == "overlap", pl.col("at") == top)
    data = (
        rows.group_by("generator", "codec", "code_bytes", maintain_order=True)
        .agg(pl.col("value"), pl.col("expected").mean(), pl.col("kind").first())
        .with_columns(pl.col("value").map_elements(_interval, return_dtype=_INTERVAL))
        .unnest("value")
        .with_columns(in_words("codec").alias("label"))
    )
    codecs = codec_colours(data["codec"].unique(maintain_order=True))
    sizes = sorted(data["code_bytes"].unique().to_list())

    def draw(rows: pl.DataFrame, first: bool) -> alt.LayerChart:
        x = quantity("code_bytes", "Bytes of code", type="log", base=2, values=sizes)
        y = quantity("mean", "Overlap" if first else None, alt.Y, percent=True, domain=[0, 1], tickCount=5)
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
        sources=("synthetic.audit", "synthetic.checks"),
    )


def deviation_figure(checks: pl.DataFrame) -> Figure:
    """Every comparison with a closed form, by measure."""
    data = checks.filter(pl.col("sigma").is_not_null()).with_columns(
        in_words("measure").alias("label"), pl.col("sigma").clip(upper_bound=6.0).alias("drawn")
    )
    order = ["overlap", "spearman", "squared error", "elimination", "fer"]
    x = quantity("drawn", "Deviation in standard errors", domain=[0, 6], values=list(range(7)))
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
        sources=("synthetic.checks",),
    )


def _interval(values: pl.Series) -> dict[str, float | None]:
    return dict(zip(("mean", "low", "high"), interval(list(values)), strict=True))


def _middle(values: list[int]) -> int:
    """The configured top nearest to 32, which relevance is defined by."""
    return min(values, key=lambda value: abs(value - 32))


def _calibrated(results: Results, target: float) -> pl.DataFrame:
    """Points whose threshold was calibrated for this FER."""
    return results.table("synthetic.points").filter(at_target("fer", target))


def _tradeoff(results: Results, target: float) -> pl.DataFrame:
    """The sweep and the calibrated points of the headline codec and of exact scores, means over heads and draws."""
    codecs, tokens = [results.headline["codec"], ORACLE], results.config["synthetic"]["tokens"]
    chosen = pl.col("codec").is_in(codecs) & (pl.col("tokens") == tokens)
    lines, points = results.table("synthetic.sweep"), _calibrated(results, target)
    keys = ["generator", "codec", "code_bytes"]
    measured = pl.col("elimination", "fer", "dropped_mass_mean", "bytes_ratio", "bytes_ratio_gqa").mean()
    swept = lines.filter(chosen).group_by(*keys, "theta", maintain_order=True).agg(measured)
    fixed = points.filter(chosen).group_by(keys, maintain_order=True).agg(measured)
    fixed = fixed.select(*keys, pl.lit(None, pl.Float32).alias("theta"), pl.exclude(keys))
    kinds = {"sweep": swept, "calibrated": fixed}
    return pl.concat(rows.with_columns(kind=pl.lit(kind)) for kind, rows in kinds.items())


def tradeoff_figure(results: Results, target: float) -> Figure:
    """FER against elimination of the headline codec at each size, with the calibrated points."""
    codec, tokens = results.headline["codec"], results.config["synthetic"]["tokens"]
    data = _tradeoff(results, target).with_columns(floored("fer"), _sized().alias("label"))
    sizes = _size_colours(data)

    def draw(rows: pl.DataFrame, first: bool) -> alt.LayerChart:
        x = quantity("elimination", "Cold keys eliminated", percent=True, domain=[0, 1], values=[0, 0.5, 1])
        lost = {"percent": True, "values": DECADES, "type": "log", "domain": [FLOOR, LOSS_TOP]}
        y = quantity("fer_drawn", "FER" if first else None, alt.Y, **lost)
        colour = coloured("label", sizes, title="Bytes of code")
        swept = alt.Chart(rows.filter(pl.col("kind") == "sweep", pl.col("fer") > FLOOR))
        line = swept.mark_line(strokeWidth=2, clip=True).encode(x=x, y=y, color=colour, order="theta:Q")
        dots = alt.Chart(rows.filter(pl.col("kind") == "calibrated"))
        dots = dots.mark_circle(size=55, opacity=1, stroke="white", clip=True).encode(x=x, y=y, color=colour)
        return alt.layer(line_at(y=target), line, dots)

    return Figure(
        "synthetic_tradeoff",
        "Elimination and what it loses, by size of the sketch",
        panels(data, draw),
        data.drop("fer_drawn", "label"),
        f"{words(codec).capitalize()} under the rule `{results.headline['rule']}`, {tokens:,} tokens, mean over heads and "
        f"draws. Dots: thresholds calibrated for FER ≤ {percent(target, 0)} (dashed) on another text of the same generator; "
        f"a dot at the bottom has a FER of {percent(FLOOR)} or less. Grey: exact scores. Where keys are isotropic, few bytes "
        "say little and little can go; a spectrum is what makes small records work.",
        sources=("synthetic.sweep", "synthetic.points"),
    )


def bytes_figure(results: Results, target: float) -> Figure:
    """Bytes ratio of calibrated points against the context, per head and GQA-true."""
    data = (
        _calibrated(results, target)
        .filter(pl.col("codec") == results.headline["codec"])
        .group_by("generator", "codec", "code_bytes", "tokens", maintain_order=True)
        .agg(pl.col("bytes_ratio", "bytes_ratio_gqa", "fer", "elimination").mean(), pl.len().alias("heads"))
        .sort("tokens", maintain_order=True)
        .with_columns(_sized().alias("label"))
    )
    thousands = "format(datum.value / 1024, '~g') + 'k'"
    sizes, contexts = _size_colours(data), sorted(data["tokens"].unique().to_list())

    def draw(rows: pl.DataFrame, first: bool) -> alt.LayerChart:
        x = quantity("tokens", "Context", type="log", base=2, values=contexts, labelExpr=thousands)
        y = quantity("bytes_ratio_gqa", "Bytes ratio" if first else None, alt.Y, domain=[0, 1.1], tickCount=5)
        colour = coloured("label", sizes, title="Bytes of code")
        base = alt.Chart(rows).encode(x=x, color=colour)
        own = base.mark_line(strokeWidth=1.5, strokeDash=[4, 3]).encode(y="bytes_ratio:Q")
        return alt.layer(base.mark_line(strokeWidth=2, point=True).encode(y=y), own)

    return Figure(
        "synthetic_bytes",
        "Bytes read at the calibrated point, against the context",
        panels(data, draw),
        data.drop("label"),
        f"Records, survivors, sinks and hot window over the full fp16 K and V, thresholds calibrated for FER ≤ "
        f"{percent(target, 0)}. Solid: GQA-true, a group's survivors united; dashed: per head. A ratio above 1 means that "
        f"records cost more than they save. Codecs are fitted at {results.config['synthetic']['tokens']:,} tokens: beyond that "
        "drifting keys leave the range of their codes, and bounds that say nothing keep them. Longer contexts gain as "
        "the relevant keys become a smaller share; the records "
        "themselves, bytes of code and one more over those of K and V, are the floor.",
        sources=("synthetic.points",),
    )


def decode_figure(decode: pl.DataFrame, bins: int = 24) -> Figure:
    """Elimination, FER and recall of planted keys as a decode goes on."""
    width = max(1, -(-int(decode["step"].max() + 1) // bins))
    data = (
        decode.with_columns((pl.col("step") // width * width + width / 2).alias("middle"))
        .group_by("generator", "middle", maintain_order=True)
        .agg(
            pl.col("tokens", "elimination").mean(),
            pl.col("elimination_worst").min(),
            pl.col("bytes_ratio_gqa", "fer", "dropped_mass", "needle_found").mean(),
            pl.col("needle_found").count().alias("asked"),
        )
        .sort("middle", maintain_order=True)
        .with_columns(in_words("generator").alias("label"))
    )
    names = colours(data["label"].unique(maintain_order=True), {}, _GENERATORS)
    titles = {
        "elimination": "Cold keys eliminated",
        "fer": "FER",
        "dropped_mass": "Dropped mass",
        "needle_found": "Planted keys found",
    }

    def draw(column: str) -> alt.Chart:
        return (
            alt.Chart(data.drop_nulls(column), title=alt.Title(titles[column], fontSize=12))
            .mark_line(strokeWidth=2)
            .encode(
                x=quantity("middle", "Step", tickCount=5),
                y=quantity(column, None, alt.Y, percent=True, zero=column != "needle_found", tickCount=5),
                color=coloured("label", names, symbolStrokeWidth=3, columns=6),
            )
            .properties(width=270, height=150)
        )

    return Figure(
        "synthetic_decode",
        "A decode of generated tensors, step by step",
        alt.concat(*(draw(column) for column in titles), columns=2, spacing=16),
        data.drop("label"),
        f"Means over {width} steps, heads and draws. Codec and thresholds come from texts as long as what precedes the first "
        "step and never change, while the cache grows. Drifting keys leave what the codec was fitted on: their residuals "
        "grow, bounds widen by themselves, and elimination falls rather than safety, unless the FER panel says otherwise. "
        "Every few steps ask for a planted key.",
        sources=("synthetic.decode",),
    )


def _sized() -> pl.Expr:
    return (
        pl.when(pl.col("codec") == ORACLE)
        .then(pl.lit("exact scores"))
        .otherwise(pl.col("code_bytes").cast(pl.String))
    )


def _size_colours(data: pl.DataFrame) -> dict[str, str]:
    """Sizes from light to dark, exact scores grey."""
    sizes = data.filter(pl.col("codec") != ORACLE)["code_bytes"].unique().sort()
    found = colours(map(str, sizes), {}, _SIZES)
    return found | {"exact scores": ORACLE_GREY} if (data["codec"] == ORACLE).any() else found
