"""Stage `frontier`: how much each codec eliminates, what it loses, what it reads."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from ghostkv.report.charts import (
    FLOOR,
    LOSS_TOP,
    above_floor,
    apart,
    chosen_mark,
    crossing,
    curves,
    fer_axis,
    floored,
    labels,
    logarithmic,
    quantity,
)
from ghostkv.report.document import Block, Chapter, Figure, HeadlineFigure, Prose, figures
from ghostkv.report.expressions import in_words, means
from ghostkv.report.results import ORACLE, Results
from ghostkv.report.summaries import among, codec_order, operating_point, pooled_curve, promises
from ghostkv.report.theme import WIDTH

_PANEL = 258


def build(results: Results) -> Sequence[Block]:
    """Elimination against loss, and loss against bytes."""
    blocks = [Prose(_reading(results)), _by_codec(results)]
    # Else it is the picture of the answer.
    return [*blocks, by_bytes(results)] if results.has("quality.summary") else blocks


def _reading(results: Results) -> str:
    frontier = results.frontier
    return (
        f"Cold keys are all but the first {frontier['sinks']} and the last {frontier['hot']}. A threshold "
        "decides from ghost records alone which of them are eliminated and never read; the survivors are "
        "read in full. Moving the threshold trades elimination for loss, and the frontier is that trade. "
        "*Exact scores* is the oracle: the same rule, given the true scores for nothing. No record can pass "
        "it under the same rule; what it cannot eliminate, this model's attention does not allow."
    )


def _headline_sizes(results: Results) -> pl.Expr:
    """Every codec at the headline's code size, and the oracle, in the layers that have all of them."""
    return (
        results.is_compared
        & results.is_rule
        & ((pl.col("code_bytes") == results.headline["bytes"]) | (pl.col("codec") == ORACLE))
    )


def _codec_curves(results: Results) -> pl.DataFrame:
    data = pooled_curve(results, _headline_sizes(results), ["codec"])
    return data.with_columns(in_words("codec").alias("label"))


def _by_codec(results: Results) -> Figure:
    swept = _codec_curves(results)
    data = above_floor(swept, "codec")
    order = codec_order(results, data["codec"])
    x = fer_axis()
    y = quantity("elimination", "Elimination (share of cold keys)", alt.Y, percent=True, domain=[0, 1])
    named = crossing(data, "fer_drawn", "elimination", 0.005)
    oracle, high = pl.col("codec") == ORACLE, pl.col("elimination") > 0.9
    groups = (
        (named.filter(oracle).with_columns(pl.lit(FLOOR).alias("fer_drawn")), {"dx": 4, "dy": -7}),
        (named.filter(~oracle, high), {"dx": 4, "dy": 13}),
        (named.filter(~oracle, ~high), {"align": "right", "dx": -2, "dy": -8}),
    )
    chart = curves(data, x, y, order, WIDTH, 340)
    for rows, mark in groups:
        if rows.height:
            chart += labels(apart(rows, "elimination", 0.055), x, y, order, **mark)
    return Figure(
        "frontier_by_codec",
        f"Elimination against FER, {results.size(results.headline['bits'])}",
        chart,
        swept.drop("label"),
        f"Up and to the left is better. Each line is one codec with "
        f"{results.size(results.headline['bits'])} of code and a residual byte, rule "
        f"`{results.headline['rule']}`; each of its points is one theta for "
        f"all heads alike, measured on held-out texts and pooled over {among(results)}. No threshold is "
        "chosen here, so nothing depends on calibration. A FER below 0.01 % is drawn at 0.01 %. Lines that "
        "lie close differ by less than heads of one codec do (see the layers below).",
        sources=("frontier.sweep", "frontier.safe_points"),
    )


def by_bytes(results: Results) -> Figure:
    """Loss against bytes, a line a codec, with the point that calibration chose."""
    data = _codec_curves(results).with_columns(floored("dropped_mass_mean"), floored("output_error_mean"))
    order = codec_order(results, data["codec"])
    losses = {"dropped_mass_mean": "Dropped mass (mean)"}
    if results.has_output:
        losses["output_error_mean"] = "Output error (mean)"
    scale, values = logarithmic(0.02, 1.1, clamp=True), [0.02, 0.05, 0.1, 0.2, 0.5, 1]
    x = quantity("bytes_ratio", "Bytes ratio per head", values=values, format="~g", **scale)
    lost = {"percent": True, "values": [1e-3, 3e-3, 1e-2, 0.03, 0.1, 0.3, LOSS_TOP]}
    lost |= logarithmic(1e-3, LOSS_TOP, clamp=True)
    width = _PANEL if len(losses) > 1 else WIDTH
    panels, promise = [], promises(results)[-1]
    point = (
        operating_point(results, promise)
        .select(means("bytes_ratio", *losses))
        .with_columns(map(floored, losses))
    )
    for column, label in losses.items():
        y = quantity(f"{column}_drawn", label, alt.Y, **lost)
        panels.append(
            curves(data, x, y, order, width, 250, legend=True)
            + chosen_mark(point, x, y, align="right", dx=-8, dy=16)
        )
    return Figure(
        "bytes_and_loss",
        "What is lost against what is read",
        alt.hconcat(*panels),
        data.drop("label"),
        f"Down and to the left is better; a line is one codec of {results.size(results.headline['bits'])} in "
        f"{among(results)}, rule `{results.headline['rule']}`, and the ring is what thresholds calibrated for {promise} "
        "choose. The bytes ratio counts every byte that a step reads (all records, survivors, sinks and hot window) over the "
        "full fp16 K and V; 1 is full attention and a codec may pass it, for records cost bytes too. Exact "
        "scores have no record, so their line is a floor that no codec can reach. Dropped mass is the "
        "softmax mass of the eliminated keys, and it, not FER, is what an output feels.",
        sources=("frontier.sweep",),
    )


_DESIGN = "codec = '{codec}' AND code_bytes = {bytes} AND rule = '{rule}'"


def _mean(column: str) -> str:
    return f"avg(CAST({column} AS DOUBLE))"


def _calibrated(metric: str, values: dict[str, tuple[str, str]]) -> tuple[HeadlineFigure, ...]:
    """Figures of the headline design calibrated for a loss of 1 %."""
    chosen = f"method = 'calibrated' AND target_metric = '{metric}' AND abs(target - 0.01) < 0.000001"
    rows = f"self WHERE {_DESIGN} AND {chosen}"
    means = {f"frontier.{name}": value for name, value in values.items() if value[1].startswith("avg")}
    others = {f"frontier.{name}": value for name, value in values.items() if f"frontier.{name}" not in means}
    return (
        *figures("frontier.layer_head", rows, means, by_text="frontier.points"),
        *figures("frontier.layer_head", rows, others),
    )


_COLD, _TOP, _MASS = "share of cold keys", "share of exact top-k keys", "share of softmax mass"
_FULL = "bytes read / bytes of full fp16 K and V"
HEADLINE = (
    *figures(
        "frontier.safe_points",
        f"self WHERE {_DESIGN}",
        {
            "frontier.safe_head_share": ("share of heads", _mean("safe")),
            "frontier.safe_every_text_share": ("share of heads", _mean("safe_every_text")),
            "frontier.safe_hindsight_share": ("share of heads", _mean("safe_hindsight")),
        },
    ),
    *_calibrated(
        "fer",
        {
            "elimination_at_fer_1pct": (_COLD, _mean("elimination")),
            "elimination_at_fer_1pct_worst_head": (_COLD, "min(CAST(elimination AS DOUBLE))"),
            "fer_at_fer_1pct": (_TOP, _mean("fer")),
            "fer_cold_at_fer_1pct": (f"{_TOP} that are cold", _mean("fer_cold")),
            "dropped_mass_at_fer_1pct": (_MASS, _mean("dropped_mass_mean")),
            "output_error_at_fer_1pct": ("relative to the output's norm", _mean("output_error_mean")),
            "bytes_ratio_at_fer_1pct": (f"{_FULL}, per head", _mean("bytes_ratio")),
            "bytes_ratio_gqa_at_fer_1pct": (f"{_FULL}, GQA-true", _mean("bytes_ratio_gqa")),
        },
    ),
    *_calibrated(
        "dropped_mass",
        {
            "elimination_at_dropped_mass_1pct": (_COLD, _mean("elimination")),
            "dropped_mass_at_dropped_mass_1pct": (_MASS, _mean("dropped_mass_mean")),
            "bytes_ratio_at_dropped_mass_1pct": (f"{_FULL}, per head", _mean("bytes_ratio")),
            "bytes_ratio_gqa_at_dropped_mass_1pct": (f"{_FULL}, GQA-true", _mean("bytes_ratio_gqa")),
        },
    ),
)

CHAPTER = Chapter(
    "frontier",
    "The frontier",
    build,
    front=("frontier_by_codec",),
    needs=("frontier.sweep", "frontier.layer_head", "frontier.safe_points"),
    headline=HEADLINE,
)
