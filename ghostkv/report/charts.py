"""Chart pieces that several chapters share. Each takes a frame whose columns are already what is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from ghostkv.report.results import ORACLE
from ghostkv.report.theme import BLUE, INK, ORACLE_GREY, codec_colours, percent_axis, scale_of, top_legend

# A share below this is drawn at it: on a logarithmic axis zero has no place.
FLOOR = 1e-4
# Where an axis of losses up to LOSS_TOP is labelled; vega would pull a label beyond the domain onto its end.
LOSS_TOP = 1.0
DECADES = (1e-4, 1e-3, 1e-2, 0.1, LOSS_TOP)
_OF_SCALE = {"type", "domain", "nice", "clamp", "base", "zero", "padding"}


def floored(column: str) -> pl.Expr:
    """A share for a logarithmic axis: `<column>_drawn`, not below `FLOOR`."""
    return pl.col(column).clip(lower_bound=FLOOR).alias(f"{column}_drawn")


def above_floor(data: pl.DataFrame, by: str | None = None) -> pl.DataFrame:
    """Sweep rows with `fer_drawn`; of those at the floor only the one of each series that eliminates most.

    All thetas that lose nothing would else draw one vertical line on the axis.
    """
    floor = pl.col("fer") <= FLOOR
    best = pl.when(floor).then(pl.col("elimination")).max()
    best = best.over(by) if by else best
    return data.with_columns(floored("fer")).filter(~floor | (pl.col("elimination") == best))


def curves(
    data: pl.DataFrame, x: alt.X, y: alt.Y, domain: list[str], width: int, height: int, legend: bool = False
) -> alt.Chart:
    """One line a codec, in its colour; the oracle dashed.

    Parameters
    ----------
    data : DataFrame
        Columns of `x` and `y`, `codec`, its words as `label`, and `theta`, which orders a line's points.
    domain : list of str
        All codecs, which fixes their colours.
    legend : bool
        Whether a legend names the lines; else name them with `labels`.
    """
    top = top_legend(symbolStrokeWidth=3, symbolSize=180, columnPadding=14) if legend else None
    scale = scale_of(codec_colours(domain))
    dashes = alt.Scale(domain=scale.domain, range=[[5, 3] if name == ORACLE else [1, 0] for name in domain])
    return (
        alt.Chart(data)
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=x,
            y=y,
            order="theta:Q",
            color=alt.Color("label:N", scale=scale, legend=top),
            strokeDash=alt.StrokeDash("label:N", scale=dashes, legend=top),
        )
        .properties(width=width, height=height)
    )


def labels(positions: pl.DataFrame, x: alt.X, y: alt.Y, domain: list[str], **mark) -> alt.Chart:
    """Names of codecs (`label`) at the given points, in their colours."""
    style = {"align": "left", "dx": 6, "fontSize": 11, "fontWeight": "bold"} | mark
    colour = alt.Color("label:N", scale=scale_of(codec_colours(domain)), legend=None)
    return alt.Chart(positions).mark_text(**style).encode(x=x, y=y, text="label:N", color=colour)


def apart(positions: pl.DataFrame, column: str, gap: float) -> pl.DataFrame:
    """The same rows from the lowest to the highest, moved up where they lie closer than `gap`."""
    ordered = positions.sort(column)
    moved = np.array(ordered[column], dtype=float)
    for row in range(1, len(moved)):
        moved[row] = max(moved[row], moved[row - 1] + gap)
    return ordered.with_columns(pl.Series(column, moved))


def crossing(data: pl.DataFrame, x: str, y: str, at: float) -> pl.DataFrame:
    """Where each codec's line passes `x` = `at` on a logarithmic axis (or ends): columns `codec`, `label`,
    `x`, `y`."""
    rows = []
    for (codec, label), line in data.sort(x).group_by("codec", "label", maintain_order=True):
        height = float(np.interp(np.log(at), np.log(line[x].to_numpy()), line[y].to_numpy()))
        rows.append({"codec": codec, "label": label, x: at, y: height})
    return pl.DataFrame(rows)


def chosen_mark(point: pl.DataFrame, x: alt.X, y: alt.Y, **words) -> alt.LayerChart:
    """A ring around the point that a reader would choose, and beside it the words; `words` says where."""
    base = alt.Chart(point).encode(x=x, y=y)
    ring = base.mark_point(size=260, strokeWidth=2, color=INK, filled=False, opacity=1)
    style = {"align": "left", "dx": 12, "dy": -12, "fontSize": 11, "fontWeight": "bold", "color": INK}
    return alt.layer(ring, base.mark_text(**style | words).encode(text=alt.value("what you would choose")))


def line_at(dash: Sequence[int] = (2, 2), color: str = INK, **at: float) -> alt.Chart:
    """A dashed line across the chart at one value, `x=` or `y=`."""
    ((axis, value),) = at.items()
    line = alt.Chart(pl.DataFrame({"at": [value]})).mark_rule(color=color, strokeDash=list(dash))
    return line.encode(**{axis: "at:Q"})


def _layer_spread(rows: pl.DataFrame, column: str, oracle: pl.DataFrame | None = None) -> pl.DataFrame:
    """Lowest, mean and highest head of each layer, and what exact scores give in the mean: as `_layer_strip` draws it."""
    value = pl.col(column).cast(pl.Float64)
    heads = rows.group_by("layer").agg(
        value.min().alias("low"), value.mean().alias("mean"), value.max().alias("high")
    )
    if oracle is None:
        heads = heads.with_columns(pl.lit(None, pl.Float64).alias("oracle"))
    else:
        heads = heads.join(oracle.group_by("layer").agg(value.mean().alias("oracle")), on="layer", how="left")
    return heads.sort("layer")


def layer_panels(
    rows: pl.DataFrame,
    oracles: Mapping[str, pl.DataFrame],
    titles: Mapping[str, str],
    width: int,
    targets: Mapping[str, float] | None = None,
    **axis,
) -> tuple[alt.HConcatChart, pl.DataFrame]:
    """One row a layer, one panel a column: the range over heads, their mean as a dot, the oracle's mean as a tick.

    Parameters
    ----------
    rows : DataFrame
        A row a head.
    oracles : mapping of str to DataFrame
        By column, the same of exact scores, where they are known.
    titles : mapping of str to str
        Of each column that is drawn.
    targets : mapping of str to float, optional
        By column, where a vertical line is drawn.

    Returns
    -------
    chart, data
        The panels, and their numbers with the column as `measured`.
    """
    panels, frames = [], []
    for column, title in titles.items():
        data = _layer_spread(rows, column, oracles.get(column))
        frames.append(data.select(pl.lit(column).alias("measured"), pl.all()))
        of = (
            alt.Axis(title=None, format="~g", **axis)
            if column == "bytes_ratio"
            else percent_axis(None, **axis)
        )
        lowest = math.floor(10 * data["low"].min()) / 10
        scale = alt.Scale(domain=[lowest, 1]) if column == "elimination" else alt.Scale(zero=True)
        strip = _layer_strip(data, of, scale, (targets or {}).get(column), named=not panels)
        panels.append(strip.properties(width=width, height=alt.Step(12), title=alt.Title(title, fontSize=12)))
    return alt.hconcat(*panels, spacing=14).resolve_scale(y="shared"), pl.concat(frames)


def _layer_strip(
    data: pl.DataFrame, axis: alt.Axis, scale: alt.Scale, target: float | None, named: bool
) -> alt.LayerChart:
    def across(name: str) -> alt.X:
        return alt.X(f"{name}:Q", axis=axis, scale=scale)

    layers = alt.Axis(title="Layer", grid=False, labelOverlap=True) if named else None
    base = alt.Chart(data).encode(y=alt.Y("layer:O", axis=layers, scale=alt.Scale(paddingInner=0.2)))
    parts = [
        base.mark_rule(color="#a9c7de", strokeWidth=4).encode(x=across("low"), x2="high:Q"),
        base.mark_circle(color=BLUE, size=42, opacity=1).encode(x=across("mean")),
    ]
    if data["oracle"].is_not_null().any():
        parts.insert(1, base.mark_tick(color=ORACLE_GREY, thickness=2, size=9).encode(x=across("oracle")))
    if target is not None:
        parts.append(line_at(x=target))
    return alt.layer(*parts)


def quantity(
    column: str, title: str | None, kind: type = alt.X, percent: bool = False, **options
) -> alt.X | alt.Y:
    """A column along an axis, which shows shares as per cent if asked to; `options` are those of Vega's scale and axis."""
    scale = {name: value for name, value in options.items() if name in _OF_SCALE}
    axis = {name: value for name, value in options.items() if name not in _OF_SCALE}
    if "values" in axis:
        axis["values"] = list(axis["values"])
    labelled = percent_axis(title, **axis) if percent else alt.Axis(title=title, **axis)
    return kind(f"{column}:Q", axis=labelled, scale=alt.Scale(**scale))


def logarithmic(*ends: float, **options) -> dict[str, Any]:
    """A logarithmic scale that ends where it is told to, as options of `quantity`."""
    return {"type": "log", "nice": False} | ({"domain": list(ends)} if ends else {}) | options


def fer_axis() -> alt.X:
    """FER of a sweep, as `above_floor` draws it."""
    title = "False elimination rate (share of the exact top keys lost)"
    return quantity(
        "fer_drawn", title, percent=True, values=DECADES, **logarithmic(FLOOR, LOSS_TOP, clamp=True)
    )
