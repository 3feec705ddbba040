"""Stage `frontier`: which heads have a threshold that eliminates enough and loses little, on text not used to
find it."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Figure, Prose, Table, aggregated
from ghostkv.report.expressions import in_words
from ghostkv.report.numbers import percent
from ghostkv.report.results import ORACLE, Results
from ghostkv.report.summaries import among
from ghostkv.report.theme import SEQUENTIAL, VERMILION, WIDTH, top_legend

_VERDICTS = {
    "every text": "safe on every held-out text",
    "pooled": "safe over all texts, not on each",
    "hindsight": "only with hindsight",
    "none": "no safe point",
}
_SHAPES = {"pooled": "circle", "hindsight": "triangle-up", "none": "cross"}


def build(results: Results) -> Sequence[Block]:
    """The map, the counts by codec, and the heads that come out worst."""
    return [Prose(_reading(results)), _map(results), _counts(results), _table(results)]


def _reading(results: Results) -> str:
    safe = results.frontier["safe"]
    return (
        "A head has a safe point if the threshold chosen for it on threshold texts eliminates at least "
        f"{percent(safe['elimination'], 0)} of its cold keys at a FER of at most {percent(safe['fer'], 0)} "
        f"on held-out texts. The threshold aims at {percent(safe['fer'] * safe['margin'])} rather than "
        f"{percent(safe['fer'], 0)}, to leave room for texts that differ."
    )


def _headline(results: Results) -> pl.DataFrame:
    verdict = (
        pl.when(pl.col("safe_every_text"))
        .then(pl.lit("every text"))
        .when(pl.col("safe"))
        .then(pl.lit("pooled"))
        .when(pl.col("safe_hindsight"))
        .then(pl.lit("hindsight"))
        .otherwise(pl.lit("none"))
    )
    return (
        results.table("frontier.safe_points")
        .filter(results.is_headline)
        .with_columns(verdict.alias("verdict"))
    )


def _map(results: Results) -> Figure:
    columns = [
        "layer",
        "head",
        "kv_head",
        "theta",
        "elimination",
        "fer",
        "elimination_worst_text",
        "fer_worst_text",
        "verdict",
    ]
    data = _headline(results).select(columns).sort("layer", "head")
    x = alt.X("layer:O", axis=alt.Axis(title="Layer", labelAngle=0, grid=False), scale=alt.Scale(padding=0))
    y = alt.Y("head:O", axis=alt.Axis(title="Head", grid=False), scale=alt.Scale(padding=0))
    lowest = min(0.9, float(data["elimination"].min() or 0.0))
    colour = alt.Color(
        "elimination:Q",
        scale=alt.Scale(scheme=SEQUENTIAL, domain=[lowest, 1.0]),
        legend=top_legend(
            title="Elimination at the safe point", gradientLength=220, tickCount=4, format=".0%"
        ),
    )
    step = max(12, min(34, WIDTH // max(data["layer"].n_unique(), 1)))
    cells = alt.Chart(data).mark_rect(stroke="white", strokeWidth=1).encode(x=x, y=y, color=colour)
    flawed = data.filter(pl.col("verdict") != "every text").with_columns(
        pl.col("verdict").replace(_VERDICTS).alias("meaning")
    )
    present = [name for name in _SHAPES if name in set(data["verdict"])]
    shapes = alt.Scale(
        domain=[_VERDICTS[name] for name in present], range=[_SHAPES[name] for name in present]
    )
    marks = (
        alt.Chart(flawed)
        .mark_point(size=52, filled=True, fill="white", stroke=VERMILION, strokeWidth=2, opacity=1)
        .encode(x=x, y=y, shape=alt.Shape("meaning:N", scale=shapes, legend=top_legend()))
    )
    chart = (cells + marks if flawed.height else cells).properties(
        width=alt.Step(step), height=alt.Step(max(16, min(step, 22)))
    )
    counts = data["verdict"].value_counts()
    number = dict(zip(counts["verdict"], counts["count"], strict=True))
    return Figure(
        "safe_map",
        "Safe points, layer by head",
        chart,
        data,
        f"One cell a head; brighter eliminates more. {number.get('every text', 0)} of {data.height} heads "
        f"are safe on every held-out text alone, {number.get('pooled', 0)} more over all texts together, "
        f"{number.get('hindsight', 0)} only at a threshold picked with hindsight, {number.get('none', 0)} at "
        f"none; the last three kinds carry a mark. {results.design.capitalize()}, rule "
        f"`{results.headline['rule']}`. A mark that appears at one head and not at its neighbours may be "
        "chance: each text contributes one sample of queries.",
    )


def _counts(results: Results) -> Table:
    columns = {
        "codec": Column("Codec"),
        "code_bytes": Column("Code bytes", "integer"),
        "heads": Column("Heads", "integer", pl.len()),
        "safe": Column("Safe", "integer", pl.col("safe").sum()),
        "safe_every_text": Column("on every text", "integer", pl.col("safe_every_text").sum()),
        "safe_hindsight": Column("with hindsight", "integer", pl.col("safe_hindsight").sum()),
        "elimination": Column("Elimination", "percent"),
        "fer": Column("FER", "percent"),
        "bytes_ratio": Column("Bytes ratio", "ratio"),
    }
    rows = results.table("frontier.safe_points").filter(results.is_compared, results.is_rule)
    data = aggregated(rows, ["codec", "code_bytes"], columns).sort(
        pl.col("codec") == ORACLE, "safe", "elimination", descending=[False, True, True]
    )
    return Table(
        "safe_counts",
        f"Heads with a safe point, by codec and record size, rule `{results.headline['rule']}`. Hindsight is "
        "what the best possible choice of thresholds would give; the difference to the safe heads is the "
        "price of choosing them beforehand. Elimination, FER and bytes ratio are means over the heads at the "
        f"chosen thresholds, safe or not. Every codec was swept in {among(results)}.",
        data.with_columns(in_words("codec")),
        columns,
    )


def _table(results: Results) -> Table:
    rows = results.job.table_rows
    data = _headline(results).sort("safe", "safe_every_text", "elimination", "layer", "head")
    return Table(
        "safe_points",
        f"The {min(rows, data.height)} heads of {data.height} that come out worst: those without a safe "
        "point first, then those not safe on every text, then by elimination. With hindsight: what the best "
        f"theta would have eliminated. All heads are in {results.path('frontier.safe_points')}.",
        data.head(rows),
        {
            "layer": Column("Layer", "integer"),
            "head": Column("Head", "integer"),
            "theta": Column("Theta", "number"),
            "elimination": Column("Elimination", "percent"),
            "elimination_worst_text": Column("on its worst text", "percent"),
            "fer": Column("FER", "percent"),
            "fer_worst_text": Column("on its worst text", "percent"),
            "bytes_ratio": Column("Bytes ratio", "ratio"),
            "hindsight_elimination": Column("with hindsight", "percent"),
            "verdict": Column("Safe on"),
        },
    )


CHAPTER = Chapter("safe_points", "Safe points", build, needs=("frontier.safe_points",))
