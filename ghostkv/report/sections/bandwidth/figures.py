"""Charts of the memory model."""

from __future__ import annotations

import altair as alt
import numpy as np
import polars as pl

from ghostkv.report.charts import logarithmic, quantity
from ghostkv.report.document import Figure
from ghostkv.report.expressions import in_words
from ghostkv.report.numbers import percent
from ghostkv.report.results import Results
from ghostkv.report.theme import (
    BLUE,
    GREEN,
    INK,
    ORACLE_GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    coloured,
    top_legend,
)

SCHEME_WORDS = {
    "full": "full fp16",
    "fp8": "fp8",
    "int8": "INT8",
    "int4": "INT4",
    "int3": "INT3",
    "quest": "pages, at best",
    "additive": "ghost, additive",
    "nested": "ghost, nested",
    "near_memory": "ghost, near memory",
    "over_fp8": "ghost over fp8",
    "over_int8": "ghost over INT8",
}
# Lines of the chart of steps; more would hide one another.
_DRAWN = ("full", "int8", "int4", "quest", "additive", "nested", "near_memory", "over_int8")
_COLOURS = (ORACLE_GREY, ORANGE, VERMILION, PURPLE, SKY, BLUE, GREEN, INK)
_TIER_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE)
_PANEL = 262


def scheme_words(column: str = "scheme") -> pl.Expr:
    """Schemes as the report calls them."""
    return pl.col(column).replace_strict(SCHEME_WORDS, default=pl.col(column))


def _contexts(values: list[int]) -> alt.X:
    label = "datum.value >= 1048576 ? datum.value / 1048576 + 'M' : datum.value / 1024 + 'k'"
    span = logarithmic(values[0], values[-1])
    return quantity("context", "Context (tokens)", values=values, grid=False, labelExpr=label, **span)


def _step_chart(data: pl.DataFrame, placements: list[str]) -> alt.ConcatChart:
    """Attention time of a step against context, a panel a placement."""
    values = sorted(set(data["context"]))
    schemes = dict(zip((SCHEME_WORDS[scheme] for scheme in _DRAWN), _COLOURS, strict=True))
    legend = {"columns": 4, "symbolStrokeWidth": 3, "symbolSize": 160}
    dash = alt.StrokeDash(
        "scenario:N",
        scale=alt.Scale(domain=["constant", "trend"], range=[[1, 0], [4, 3]]),
        legend=top_legend(title="survivors", symbolStrokeColor=INK),
    )
    panels = [
        alt.Chart(data.filter(pl.col("placement") == placement))
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=_contexts(values),
            y=quantity("milliseconds", "ms a step", alt.Y, type="log", nice=True, format="~g", tickCount=6),
            color=coloured("label", schemes, **legend),
            strokeDash=dash,
        )
        .properties(width=_PANEL, height=210, title=alt.Title(placement.replace("_", " "), fontSize=12))
        for placement in placements
    ]
    return alt.concat(*panels, columns=2, spacing=18)


def _map_chart(data: pl.DataFrame) -> alt.HConcatChart:
    """Speed-up by bandwidth and survivors, and by unit and survivors; the line is where both are as fast."""
    titles = {"bandwidth": "Bandwidth of the K,V tier / fastest tier", "unit": "Bytes of a unit"}
    return alt.hconcat(
        *[_map(data.filter(pl.col("map") == name), title, name) for name, title in titles.items()], spacing=18
    )


def _map(data: pl.DataFrame, title: str, name: str) -> alt.LayerChart:
    grid = {key: sorted(set(data[key])) for key in ("x", "share")}
    halves = {key: (values[1] / values[0]) ** 0.5 for key, values in grid.items()}
    boxes = data.with_columns(
        *[(pl.col(key) / half).alias(f"{key}_low") for key, half in halves.items()],
        *[(pl.col(key) * half).alias(f"{key}_high") for key, half in halves.items()],
    )
    edge = _break_even(data, grid["x"])
    first = name == "bandwidth"
    label = "datum.value >= 1024 ? datum.value / 1024 + ' KiB' : datum.value + ' B'"
    axis = (
        {"format": "~g", "values": [0.001, 0.01, 0.1, 1]}
        if first
        else {"labelExpr": label, "values": [32, 256, 2048, 16384]}
    )
    axis |= {"grid": False} | logarithmic(boxes["x_low"].min(), boxes["x_high"].max())
    up = {"percent": True, "values": [0.003, 0.01, 0.03, 0.1, 0.3], "grid": False}
    up |= logarithmic(boxes["share_low"].min(), boxes["share_high"].max())
    survivors = "Survivors of cold keys, group" if first else ""
    legend = alt.Legend(title="times faster", orient="right", values=[1 / 16, 0.25, 1, 4, 16], format="~g")
    colour = alt.Color(
        "speedup:Q",
        scale=alt.Scale(type="log", scheme="blueorange", reverse=True, domain=[1 / 16, 16], clamp=True),
        legend=None if first else legend,
    )
    tiles = alt.Chart(boxes).mark_rect().encode(
        x=quantity("x_low", title, **axis), x2="x_high:Q",
        y=quantity("share_low", survivors, alt.Y, **up), y2="share_high:Q", color=colour,
    )  # fmt: skip
    line = alt.Chart(edge).mark_line(color=INK, strokeWidth=2, clip=True)
    line = line.encode(x=quantity("x", title, **axis), y=quantity("share", survivors, alt.Y, **up))
    return alt.layer(tiles, line).properties(width=215, height=230)


def _break_even(data: pl.DataFrame, xs: list[float]) -> pl.DataFrame:
    """For each x the share at which the speed-up passes 1, between two rows of the map."""
    rows = []
    for x in xs:
        column = data.filter(pl.col("x") == x).sort("share")
        pairs = list(column.select("share", "speedup").iter_rows())
        for (low, fast), (high, slow) in zip(pairs, pairs[1:], strict=False):
            if fast >= 1 > slow:
                part = np.log(fast) / np.log(fast / slow)
                rows.append({"x": x, "share": float(low * (high / low) ** part)})
    return pl.DataFrame(rows, schema={"x": pl.Float64, "share": pl.Float64})


def _error_chart(data: pl.DataFrame) -> alt.LayerChart:
    """Modelled against measured time; filled dots were held out."""
    low, high = float(data["milliseconds"].min()) / 1.5, float(data["milliseconds"].max()) * 1.5
    tiers = list(dict.fromkeys(data["tier"]))
    ends = pl.DataFrame({"milliseconds": [low, high], "modelled": [low, high]})
    axis = {"format": "~g", "tickCount": 6} | logarithmic(low, high)
    x, y = (
        quantity("milliseconds", "Measured (ms)", **axis),
        quantity("modelled", "Modelled (ms)", alt.Y, **axis),
    )
    line = alt.Chart(ends).mark_line(color=ORACLE_GREY, strokeDash=[4, 3]).encode(x=x, y=y)
    named = dict(zip(tiers, _TIER_COLOURS, strict=False))
    colour = coloured("tier", named, symbolType="circle", symbolOpacity=1)
    dots = [
        alt.Chart(data.filter(pl.col("held_out") == held_out))
        .mark_point(filled=held_out, opacity=0.85, size=42)
        .encode(x=x, y=y, color=colour)
        for held_out in (False, True)
    ]
    return alt.layer(line, *dots).properties(width=420, height=360)


def _tornado_chart(data: pl.DataFrame, placements: list[str]) -> alt.ConcatChart:
    """Time of a step over that as configured, with each parameter halved and doubled."""
    panels, scale = [], logarithmic(0.4, 2.5, clamp=True)
    for placement in placements:
        rows = data.filter(pl.col("placement") == placement)
        order = rows.group_by("parameter").agg(pl.col("factor").log().abs().max().alias("reach"))
        order = order.sort("reach", "parameter", descending=[True, False])["parameter"].to_list()
        y = alt.Y("parameter:N", sort=order, axis=alt.Axis(title=None, grid=False, labelLimit=120))
        x = quantity("factor", "time / as configured", format="~g", values=[0.5, 0.7, 1, 1.4, 2], **scale)
        colour = coloured("change", {"halved (overlap 0)": SKY, "doubled (overlap 1)": BLUE})
        bars = alt.Chart(rows.with_columns(pl.lit(1.0).alias("one"))).mark_bar(height=9, opacity=0.9)
        bars = bars.encode(x=x, x2="one:Q", y=y, color=colour)
        middle = alt.Chart(pl.DataFrame({"factor": [1.0]})).mark_rule(color=INK).encode(x=x)
        panels.append(
            alt.layer(bars, middle).properties(
                width=190, height=150, title=alt.Title(placement.replace("_", " "), fontSize=12)
            )
        )
    return alt.concat(*panels, columns=2, spacing=14)


# Schemes that depend on survivors are drawn for both scenarios, others once.
_DEPENDENT = ("quest", "additive", "nested", "near_memory", "over_int8")


def captured_shape(results: Results) -> str:
    """The model whose survivors were measured."""
    return results.table("bandwidth.steps")["shape"][0]


def check_figure(results: Results) -> Figure:
    """Modelled against measured times of this machine."""
    data = results.table("bandwidth.errors").with_columns(
        (pl.col("seconds") * 1e3).alias("milliseconds"),
        (pl.col("modelled_seconds") * 1e3).alias("modelled"),
        in_words("tier"),
    )
    held = data.filter(pl.col("held_out"))
    return Figure(
        "bandwidth_check",
        "The model beside this machine",
        _error_chart(data),
        data.select("name", "tier", "pattern", "row_bytes", "share", "depth", "held_out", "milliseconds", "modelled", "error"),
        f"A dot is a configuration: rows of one size, one share of them, random, strided or real survivors. {held.height} "
        f"filled dots were held out: their error is {percent(held['error'].abs().median())} in the median, "
        f"{percent(held['error'].abs().quantile(0.9))} for nine in ten, {percent(held['error'].abs().max())} at worst. The "
        "time of each is the least of its rounds' medians, taken in turns with all others.",
    sources=("bandwidth.errors",),)  # fmt: skip


def steps_figure(results: Results) -> Figure:
    """Attention time of a step, scheme by scheme."""
    shape, placements = captured_shape(results), _placements(results)
    data = results.table("bandwidth.steps").filter(
        (pl.col("shape") == shape)
        & pl.col("placement").is_in(placements)
        & pl.col("scheme").is_in(_DRAWN)
        & ((pl.col("scenario") == "constant") | pl.col("scheme").is_in(_DEPENDENT))
    )
    data = data.with_columns(
        (pl.col("attention_seconds") * 1e3).alias("milliseconds"), scheme_words().alias("label")
    )
    about = ("shape", "placement", "scheme", "label", "scenario", "context")
    return Figure(
        "bandwidth_steps",
        f"Attention time of a step against context, {shape} (model)",
        _step_chart(data, placements),
        data.select(*about, "share", "link_bytes", "milliseconds"),
        "Cold keys and values lie in the tier that names the panel, records in the fastest, where the config says no "
        "other. All of it is modelled; survivors are measured at the shortest contexts alone. At short contexts the "
        "latency of one more dependent phase outweighs the bytes saved. Additive and nested coincide where the bytes that "
        "nesting saves do not fill a line.",
        sources=("bandwidth.steps",),
    )


def _placements(results: Results) -> list[str]:
    return [placement["name"] for placement in results.config["bandwidth"]["placements"]][:4]


def maps_figure(results: Results) -> Figure:
    """Where nested storage is faster than INT4 in full."""
    shape = captured_shape(results)
    data = results.table("bandwidth.maps").filter(pl.col("shape") == shape)
    context = data["context"][0]
    return Figure(
        "bandwidth_maps",
        f"Where nested storage is faster than INT4 in full at {context:,} tokens, {shape} (model)",
        _map_chart(data),
        data,
        "Times faster than reading all keys and values in INT4; the line is break-even. Left: the slower the tier of K,V "
        "beside the fastest, which holds the records, the more survivors it pays to leave behind; its unit is that of the "
        "first tier beyond the fastest. Right: that tier with larger units, which scattered survivors fill badly; real "
        "survivors' clustering is taken from the measured patterns.",
        sources=("bandwidth.maps", "bandwidth.steps"),
    )


def sensitivity_figure(results: Results) -> Figure:
    """What each parameter changes."""
    shape, placements = captured_shape(results), _placements(results)
    rows = results.table("bandwidth.sensitivity").filter(
        (pl.col("shape") == shape) & pl.col("placement").is_in(placements)
    )
    data = pl.concat(
        rows.select(
            "placement", "parameter", pl.col(side).alias("value"), pl.lit(words).alias("change"),
            (pl.col(f"{side}_seconds") / pl.col("seconds")).alias("factor"), "elasticity",
        )
        for side, words in (("low", "halved (overlap 0)"), ("high", "doubled (overlap 1)"))
    )  # fmt: skip
    context = results.config["bandwidth"]["headline_context"]
    return Figure(
        "bandwidth_sensitivity",
        f"What the time of nested storage hangs on at {context:,} tokens (model)",
        _tornado_chart(data, placements),
        data,
        "Each parameter halved and doubled, all others as configured; overlap is tried at none and at all. A parameter "
        "without a bar does not matter there: the tier is bound by something else.",
        sources=("bandwidth.sensitivity", "bandwidth.steps"),
    )
