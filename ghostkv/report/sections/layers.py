"""Stage `frontier`: where in the model elimination is possible."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import polars as pl

from ghostkv.report.charts import above_floor, crossing, fer_axis, layer_panels, quantity
from ghostkv.report.document import Block, Chapter, Figure, Prose
from ghostkv.report.results import Results
from ghostkv.report.sections.heads import heads_figure
from ghostkv.report.summaries import Promise, operating_point, pooled_curve, promises
from ghostkv.report.theme import INK, ORACLE_GREY, SEQUENTIAL, WIDTH


def build(results: Results) -> Sequence[Block]:
    """The map of heads, every layer as a curve, then at both operating points."""
    text = (
        "Heads differ far more than texts do. Choose a head on the map: its frontier, its bytes, what is proved of it and what it "
        "loses appear below."
    )
    return [
        Prose(text),
        heads_figure(results),
        _curves(results),
        *(_by_layer(results, promise) for promise in promises(results)),
    ]


def _curves(results: Results) -> Figure:
    own = pooled_curve(results, results.is_headline, ["layer"])
    oracle = pooled_curve(results, results.is_oracle, [])
    everything = pl.concat(
        [own, oracle.with_columns(pl.lit(None, pl.Int16).alias("layer")).select(own.columns)]
    )
    own, oracle = above_floor(own, "layer"), above_floor(oracle)
    x = fer_axis()
    lowest = math.floor(10 * float(own["elimination"].min())) / 10
    y = quantity("elimination", "Elimination (share of cold keys)", alt.Y, percent=True, domain=[lowest, 1])
    legend = alt.Legend(title="Layer", orient="right", gradientLength=180)
    lines = (
        alt.Chart(own)
        .mark_line(strokeWidth=1.3, clip=True)
        .encode(
            x=x,
            y=y,
            order="theta:Q",
            detail="layer:O",
            color=alt.Color("layer:Q", scale=alt.Scale(scheme=SEQUENTIAL), legend=legend),
        )
    )
    ceiling = alt.Chart(oracle).mark_line(color=ORACLE_GREY, strokeDash=[5, 3], strokeWidth=2, clip=True)
    by_name = own.with_columns(pl.col("layer").alias("codec"), pl.format("layer {}", "layer").alias("label"))
    named = crossing(by_name, "fer_drawn", "elimination", 0.005).sort("elimination").head(1)
    style = {"align": "left", "dx": 3, "dy": 12, "fontWeight": "bold", "color": INK}
    names = alt.Chart(named).mark_text(**style).encode(x=x, y=y, text="label:N")
    return Figure(
        "frontier_by_layer",
        f"Elimination against FER, one line a layer, {results.design}",
        (lines + ceiling.encode(x=x, y=y, order="theta:Q") + names).properties(width=WIDTH - 60, height=300),
        everything,
        "The same trade as above for one codec, a line a layer and all its heads pooled; the dashed line is "
        "exact scores over all layers. Each point is one theta for all heads of a layer, so no threshold was "
        "chosen. The layer that eliminates least at a FER of 0.5 % is named. Depth is colour: neighbouring "
        "layers of like colour that lie apart show that depth alone does not decide. The vertical axis does "
        "not start at zero; rows without a layer in the CSV are exact scores.",
        sources=("frontier.sweep",),
    )


def _by_layer(results: Results, promise: Promise) -> Figure:
    metric, loss = promise.metric, promise.achieved.name
    own, oracle = operating_point(results, promise), operating_point(results, promise, oracle=True)
    titles = {
        "elimination": "Elimination",
        loss: f"Measured {promise.risk}",
        "bytes_ratio": "Bytes ratio per head",
    }
    oracles = dict.fromkeys(titles, oracle)
    chart, data = layer_panels(own, oracles, titles, 185, {loss: promise.target}, tickCount=3)
    return Figure(
        f"layers_{metric}",
        f"Layer by layer, thresholds calibrated for {promise}",
        chart,
        data,
        "A row is a layer: the dot is the mean of its heads, the bar runs from the lowest to the highest "
        f"head, the grey tick is the mean for exact scores. {results.design.capitalize()}, rule "
        f"`{results.headline['rule']}`, held-out texts. The dotted line is the target: bars that cross it "
        "are heads whose calibration did not carry over to unseen text. Layers whose bars lie low on the "
        "left are dense: there attention itself is spread out, the grey tick moves along, and no codec will "
        "help. The elimination axis does not start at zero.",
        sources=("frontier.layer_head",),
    )


CHAPTER = Chapter(
    "layers",
    "Layer by layer, head by head",
    build,
    front=("heads",),
    needs=("frontier.sweep", "frontier.layer_head", "frontier.safe_points", "frontier.context"),
)
