"""Stage `frontier`: which record size and which threshold rule pay, and how well a record knows a score."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from ghostkv.report.charts import apart, labels, logarithmic, quantity
from ghostkv.report.document import Block, Chapter, Column, Figure, Prose, Table, aggregated
from ghostkv.report.expressions import in_words, means, promised
from ghostkv.report.results import ORACLE, Results
from ghostkv.report.summaries import among, codec_order, promises
from ghostkv.report.theme import MUTED, ORACLE_GREY, WIDTH, codec_colours, scale_of


def build(results: Results) -> Sequence[Block]:
    """Record sizes at one loss, rules at every target, errors and margins."""
    text = "A larger record knows a score better and costs more to read. The rule says which statistic of a key is compared with theta."
    return [Prose(text), _by_record_size(results), _rules_table(results), _bounds_table(results)]


def _by_record_size(results: Results) -> Figure:
    promise = promises(results)[0]
    table = results.table("frontier.layer_head").filter(results.is_compared, results.is_rule, promise.rows)
    columns = ["elimination", "fer", "dropped_mass_mean", "bytes_ratio", "bytes_ratio_gqa"]
    data = table.group_by("codec", "code_bytes", "record_bytes", maintain_order=True).agg(
        means(*columns), pl.len().alias("heads")
    )
    data = data.with_columns(in_words("codec").alias("label"))
    order = codec_order(results, data["codec"])
    own = data.filter(pl.col("codec") != ORACLE).sort("codec", "code_bytes")
    sizes = sorted(own["code_bytes"].unique())
    span = logarithmic(sizes[0], sizes[-1] * 2)
    x = quantity("code_bytes", "Bytes of code per key", values=sizes, grid=False, **span)
    y = quantity("bytes_ratio", "Bytes ratio per head", alt.Y, zero=True, format="~g")
    colour = alt.Color("label:N", scale=scale_of(codec_colours(order)), legend=None)
    lines = alt.Chart(own).mark_line(strokeWidth=2).encode(x=x, y=y, color=colour)
    dots = alt.Chart(own).mark_circle(size=50, opacity=1).encode(x=x, y=y, color=colour)
    ends = apart(
        own.group_by("codec", maintain_order=True).last(), "bytes_ratio", 0.055 * own["bytes_ratio"].max()
    )
    chart = (lines + dots + labels(ends, x, y, order)).properties(width=WIDTH, height=260)
    floor = data.filter(pl.col("codec") == ORACLE)
    if floor.height:
        line = alt.Chart(floor).mark_rule(strokeDash=[5, 3], color=ORACLE_GREY).encode(y="bytes_ratio:Q")
        label = alt.Chart(floor).mark_text(align="right", dy=-6, color=MUTED, fontWeight="bold")
        chart += line + label.encode(x=alt.value(WIDTH - 4), y="bytes_ratio:Q", text="label:N")
    return Figure(
        "record_size",
        f"Which record pays for itself, at {promise}",
        chart,
        data.drop("label"),
        f"Lower is better. Thresholds are calibrated per head for {promise}; a dot "
        f"is the mean bytes ratio over {among(results)} on held-out texts. "
        "More bytes per record make estimates sharper and leave fewer survivors, until the records "
        "themselves cost more than the survivors they save: a line's lowest dot is that codec's best size. "
        "The CSV has the measured loss of each dot, which may lie on either side of the target.",
        sources=("frontier.layer_head", "frontier.safe_points"),
    )


def _rules_table(results: Results) -> Table:
    shown = results.is_record | (pl.col("codec") == ORACLE)
    rows = results.table("frontier.layer_head").filter(shown, pl.col("method") == "calibrated")
    by = ["target_metric", "target", "codec", "rule"]
    columns = {
        "codec": Column("Codec"),
        "rule": Column("Rule"),
        "elimination": Column("Elimination", "percent"),
        "fer": Column("FER", "percent"),
        "dropped_mass_mean": Column("Dropped mass", "percent"),
        "output_error_mean": Column("Output error", "percent"),
        "bytes_ratio": Column("Bytes ratio", "ratio"),
        "bytes_ratio_gqa": Column("GQA-true", "ratio"),
    }
    if not results.has_output:
        del columns["output_error_mean"]
    data = aggregated(rows, by, columns).sort(by, descending=[True, False, True, True])
    return Table(
        "rules",
        f"Threshold rules for the {results.design} and for exact scores: means over {results.heads} heads, "
        "held-out texts. Which rule is best depends on what must not be lost: one that looks at the top keys "
        "keeps those, one that looks at the softmax denominator keeps mass.",
        data.with_columns(in_words("codec"), promised()),
        {"promise": Column("Calibrated for")} | columns,
        sources=("frontier.layer_head", "frontier.safe_points"),
    )


def _bounds_table(results: Results) -> Table:
    compared = {
        name: pl.col(name).filter(results.is_compared).cast(pl.Float64).mean()
        for name in ("score_spread", "score_rmse", "margin_mean")
    }
    looseness = compared["margin_mean"] / compared["score_rmse"]
    columns = {
        "codec": Column("Codec"),
        "code_bytes": Column("Code bytes", "integer"),
        "record_bytes": Column("Record bytes", "integer"),
        "score_spread": Column("Score SD", "number", compared["score_spread"]),
        "score_rmse": Column("Error", "number", compared["score_rmse"]),
        "margin_mean": Column("Margin", "number", compared["margin_mean"]),
        "looseness": Column("Margin / error", "factor", looseness),
        "pairs": Column("Pairs checked", "integer", pl.col("pairs").sum()),
        "violations": Column("Violations", "integer", pl.col("violations").sum()),
    }
    data = aggregated(results.table("frontier.bounds"), ["codec", "code_bytes", "record_bytes"], columns)
    return Table(
        "bounds",
        "How well a record knows a score. The error is the root mean square of estimate minus exact score, "
        "in score units (the spread of the scores themselves is beside it); the margin is what "
        "Cauchy-Schwarz proves of it. A violation, an error above its margin, would be a fault of the lab: "
        "it must be 0, and all layers are counted. A margin many times the error is sound but loose. Errors and margins "
        f"are means over {among(results)}.",
        data.with_columns(in_words("codec")),
        columns,
        sources=("frontier.bounds", "frontier.safe_points"),
    )


CHAPTER = Chapter(
    "records",
    "Records and rules",
    build,
    front=("record_size",),
    needs=("frontier.layer_head", "frontier.bounds"),
)
