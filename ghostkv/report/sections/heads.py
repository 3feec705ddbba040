"""One head at a time: a map of all heads, and what is known of the one that is chosen on it."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import polars as pl

from ghostkv.report.charts import FLOOR, above_floor, floored, logarithmic, quantity
from ghostkv.report.document import Figure
from ghostkv.report.expressions import means, weighted
from ghostkv.report.numbers import percent
from ghostkv.report.results import Results
from ghostkv.report.sections.certificates.figures import pooled, promise
from ghostkv.report.summaries import ELIMINATION, operating_point, pooled_curve, promises, worst
from ghostkv.report.theme import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SEQUENTIAL,
    VERMILION,
    WIDTH,
    coloured,
    top_legend,
)
from ghostkv.stages.certificates.schemas import NESTED

CERTIFICATES = "certificates.certificates"
_HEAD = ["layer", "head"]
_VERDICTS = {
    "every text": "safe on every held-out text",
    "pooled": "safe over all texts, not on each",
    "hindsight": "only with hindsight",
    "none": "no safe point",
}
_STROKES = ("white", ORANGE, PURPLE, INK)
_PANEL = 150


def heads_figure(results: Results) -> Figure:
    """The map, and of the chosen head its frontier, what it reads under each promise, and its loss by position."""
    shown = ("kv_head", "theta", "elimination", "fer", "elimination_worst_text", "fer_worst_text", "verdict")
    about = _brief(verdicts(results).select(*_HEAD, *shown))
    curve, read, bands = _curve(results), _read(results), _bands(results)
    first = worst(about, ELIMINATION)
    pick = alt.selection_point(
        "head_chosen",
        fields=_HEAD,
        value=[{name: first[name] for name in _HEAD}],
        bind={name: alt.binding_select(options=sorted(about[name].unique()), name=f"{name.capitalize()} ") for name in _HEAD},
        on="click",
        clear=False,
        toggle=False,
        empty=False,
    )  # fmt: skip
    panels = alt.hconcat(_frontier(curve, pick), _bytes(read, pick), _positions(bands, pick), spacing=18)
    counts = dict(about["verdict"].value_counts().iter_rows())
    return Figure(
        "heads",
        "Every head: choose one",
        alt.vconcat(_map(about, pick), panels.resolve_scale(color="independent"), spacing=22),
        _numbers(map=about, frontier=curve.drop("fer_drawn"), bytes=read, positions=bands.drop("lost_drawn")),
        f"One cell a head; brighter eliminates more at its safe point. {counts.get('every text', 0)} of {about.height} heads are safe "
        f"on every held-out text alone, {counts.get('pooled', 0)} more over all texts together, {counts.get('hindsight', 0)} only at a "
        f"threshold picked with hindsight, {counts.get('none', 0)} at none; a frame marks the last three kinds. A frame at one head "
        "and not at its neighbours may be chance: each text contributes one sample of queries. Below, of the head that is chosen by "
        "a click or by the lists (here the one that eliminates least): its frontier, a point a theta; the bytes that it reads under "
        "each promise, proved (green) or calibrated (blue); and the loss by the position of the query, at thresholds calibrated for "
        f"{promises(results)[-1]}. {results.design.capitalize()}, rule `{results.headline['rule']}`, held-out texts. Losses "
        f"below {percent(FLOOR)} are drawn there.",
        sources=[name for name in ("frontier.safe_points", "frontier.sweep", "frontier.layer_head", "frontier.context", CERTIFICATES)
                 if results.has(name)],
    )  # fmt: skip


def _numbers(**parts: pl.DataFrame) -> pl.DataFrame:
    """The numbers of all parts of the figure, one under the other."""
    named = [rows.select(pl.lit(name).alias("part"), pl.all()) for name, rows in parts.items()]
    return pl.concat(named, how="diagonal_relaxed")


def verdicts(results: Results) -> pl.DataFrame:
    """Safe points of the headline design, a row a head, and on what each is safe as `verdict`."""
    verdict = (
        pl.when(pl.col("safe_every_text"))
        .then(pl.lit("every text"))
        .when(pl.col("safe"))
        .then(pl.lit("pooled"))
        .when(pl.col("safe_hindsight"))
        .then(pl.lit("hindsight"))
        .otherwise(pl.lit("none"))
        .alias("verdict")
    )
    return results.table("frontier.safe_points").filter(results.is_headline).with_columns(verdict).sort(_HEAD)


def _brief(data: pl.DataFrame) -> pl.DataFrame:
    """Four digits are what a picture and its tooltips show."""
    return data.with_columns(pl.col(pl.Float32, pl.Float64).cast(pl.Float64).round_sig_figs(4))


def _curve(results: Results) -> pl.DataFrame:
    swept = pooled_curve(results, results.is_headline, _HEAD)
    shown = (*_HEAD, "theta", "elimination", "fer", "dropped_mass_mean", "bytes_ratio")
    return _brief(
        above_floor(swept.with_columns(pl.concat_str(_HEAD, separator="/").alias("of")), "of").select(
            *shown, "fer_drawn"
        )
    )


def _read(results: Results) -> pl.DataFrame:
    """Bytes and elimination of every head under each promise."""
    return _brief(pl.concat(_reads(results)))


def _reads(results: Results) -> Iterator[pl.DataFrame]:
    measures = ("elimination", "bytes_ratio")
    if results.has(CERTIFICATES):
        own = results.table(CERTIFICATES).filter(design=NESTED, storage="nested", decision="head")
        rows = pooled(own, ["certificate", "target", *_HEAD]).with_columns(promise())
        rows = rows.sort(pl.col("certificate") != "topk", -pl.col("target"), *_HEAD)
        yield rows.select(*_HEAD, pl.format("proved: {}", "promise").alias("promise"), *measures)
    for one in promises(results):
        rows = operating_point(results, one).group_by(_HEAD).agg(means(*measures)).sort(_HEAD)
        yield rows.select(*_HEAD, pl.lit(f"calibrated: {one}").alias("promise"), *measures)


def _bands(results: Results) -> pl.DataFrame:
    """Losses of every head by band of positions, at thresholds calibrated for the last promise."""
    losses = {"fer": "FER", "dropped_mass_mean": "dropped mass"}
    chosen = promises(results)[-1]
    rows = results.table("frontier.context").with_columns(pl.lit("calibrated").alias("method"))
    rows = (
        rows.filter(chosen.rows, results.is_headline)
        .group_by(*_HEAD, "band_start", "band_stop")
        .agg(map(weighted, losses))
    )
    long = rows.unpivot(
        list(losses), index=[*_HEAD, "band_start", "band_stop"], variable_name="loss", value_name="lost"
    )
    centre = (pl.col("band_start") * pl.col("band_stop")).cast(pl.Float64).sqrt().round(0).alias("position")
    return _brief(
        long.with_columns(pl.col("loss").replace(losses), centre, floored("lost")).sort(
            *_HEAD, "loss", "band_start"
        )
    )


def _map(about: pl.DataFrame, pick: alt.Parameter) -> alt.Chart:
    data = about.with_columns(pl.col("verdict").replace(_VERDICTS).alias("meaning"))
    x = alt.X("layer:O", axis=alt.Axis(title="Layer", labelAngle=0, grid=False), scale=alt.Scale(padding=0))
    y = alt.Y("head:O", axis=alt.Axis(title="Head", grid=False), scale=alt.Scale(padding=0))
    lowest = min(0.9, float(data["elimination"].min() or 0.0))
    colour = alt.Color(
        "elimination:Q",
        scale=alt.Scale(scheme=SEQUENTIAL, domain=[lowest, 1.0]),
        legend=top_legend(
            title="Elimination at the safe point", gradientLength=180, tickCount=4, format=".0%"
        ),
    )
    present = [name for name in _VERDICTS if name in set(data["verdict"])]
    scale = alt.Scale(
        domain=[_VERDICTS[name] for name in present],
        range=[dict(zip(_VERDICTS, _STROKES, strict=True))[name] for name in present],
    )
    legend = top_legend(symbolType="square", symbolStrokeWidth=2) if present != ["every text"] else None
    step = max(12, min(34, (WIDTH - 20) // max(data["layer"].n_unique(), 1)))
    chart = (
        alt.Chart(data)
        .mark_rect(cursor="pointer")
        .encode(
            x=x,
            y=y,
            color=colour,
            stroke=alt.condition(
                pick, alt.value(VERMILION), alt.Stroke("meaning:N", scale=scale, legend=legend)
            ),
            strokeWidth=alt.condition(pick, alt.value(3.5), alt.value(1.5)),
        )
    )
    return chart.properties(width=alt.Step(step), height=alt.Step(max(14, min(step, 22)))).add_params(pick)


def _frontier(curve: pl.DataFrame, pick: alt.Parameter) -> alt.LayerChart:
    x = quantity(
        "fer_drawn", "FER", percent=True, values=[1e-4, 1e-2, 1], **logarithmic(FLOOR, 1.0, clamp=True)
    )
    y = quantity("elimination", None, alt.Y, percent=True, domain=[0, 1], tickCount=5)
    base = alt.Chart(curve).transform_filter(pick).encode(x=x, y=y, order="theta:Q")
    parts = (base.mark_line(color=BLUE, strokeWidth=2), base.mark_circle(color=BLUE, size=28, opacity=1))
    return _titled(alt.layer(*parts), "Cold keys eliminated")


def _bytes(read: pl.DataFrame, pick: alt.Parameter) -> alt.Chart:
    order = read["promise"].unique(maintain_order=True).to_list()
    y = alt.Y("promise:N", sort=order, axis=alt.Axis(title=None, grid=False, labelLimit=170))
    x = quantity("bytes_ratio", "Bytes ratio per head", domain=[0, 1], tickCount=4, format="~g")
    proved = alt.condition("indexof(datum.promise, 'proved') == 0", alt.value(GREEN), alt.value(BLUE))
    bars = alt.Chart(read).transform_filter(pick).mark_bar(height=13).encode(x=x, y=y, color=proved)
    return _titled(bars, "Bytes read")


def _positions(bands: pl.DataFrame, pick: alt.Parameter) -> alt.LayerChart:
    ends = sorted({*bands["band_start"], *bands["band_stop"]})
    x = quantity(
        "position",
        "Position",
        values=ends[::2],
        labelExpr="format(datum.value, ',')",
        grid=False,
        **logarithmic(ends[0], ends[-1]),
    )
    y = quantity(
        "lost_drawn",
        None,
        alt.Y,
        percent=True,
        values=[1e-4, 1e-3, 1e-2, 0.1, 1],
        **logarithmic(FLOOR, 1.0, clamp=True),
    )
    base = (
        alt.Chart(bands)
        .transform_filter(pick)
        .encode(x=x, y=y, color=coloured("loss", {"FER": INK, "dropped mass": VERMILION}, orient="bottom"))
    )
    return _titled(
        alt.layer(base.mark_line(strokeWidth=2), base.mark_circle(size=36, opacity=1)), "Loss by position"
    )


def _titled(chart: alt.Chart | alt.LayerChart, title: str) -> alt.Chart | alt.LayerChart:
    return chart.properties(width=_PANEL, height=150, title=alt.Title(title, fontSize=12))
