"""Stage `frontier`: whether thresholds chosen on some texts keep their promise on others."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from ghostkv.report.charts import logarithmic, quantity
from ghostkv.report.document import Block, Chapter, Column, Figure, Prose, Table, aggregated
from ghostkv.report.expressions import RISKS, in_words, promised
from ghostkv.report.numbers import percent
from ghostkv.report.results import Results
from ghostkv.report.summaries import ACHIEVED, Promise, calibration_queries, head_name, points_by_text
from ghostkv.report.theme import BLUE, INK, VERMILION, WIDTH

_FLOOR = 1e-4


def build(results: Results) -> Sequence[Block]:
    """Target against achieved: a figure of every head in every domain, and the same in numbers."""
    achieved = pl.concat(
        [
            points_by_text(results, Promise(metric, target)).select(
                pl.lit(metric).alias("metric"),
                pl.lit(target).alias("goal"),
                "layer", "head", "text", "domain", "queries",
                pl.col(ACHIEVED[metric].name).cast(pl.Float64).alias("achieved"),
            )
            for metric in ACHIEVED
            for target in results.targets(metric)
        ]
    )  # fmt: skip
    return [Prose(_reading(results)), _figure(achieved), _table(achieved)]


def _reading(results: Results) -> str:
    samples = calibration_queries(results)
    text = (
        "A threshold is the largest whose mean loss on threshold texts satisfies conformal risk control: "
        f"n/(n+1) times the mean plus 1/(n+1) is at most the target, with n = {samples} queries a head. If "
        "queries of new text were exchangeable with those, the expected loss would stay below the target. "
        "Queries of one document resemble each other and domains differ, so the promise holds only as far as "
        "the figure shows."
    )
    hopeless = [
        percent(target)
        for metric in ACHIEVED
        for target in results.targets(metric)
        if target < 1 / (samples + 1)
    ]
    if hopeless:
        text += (
            f" **No guarantee:** {', '.join(hopeless)} is below 1/(n+1) = {percent(1 / (samples + 1))}, "
            "where no sample of this size can promise anything."
        )
    return text


def _figure(achieved: pl.DataFrame) -> Figure:
    keys = ["metric", "goal", "layer", "head", "domain"]
    data = achieved.group_by(keys, maintain_order=True).agg(
        pl.col("achieved").mean(), pl.col("queries").sum(), pl.len().alias("texts")
    )
    data = data.with_columns(
        promised("metric", "goal"),
        pl.col("achieved").clip(lower_bound=_FLOOR).alias("drawn"),
        (pl.col("achieved") > pl.col("goal")).alias("above"),
    )
    order = data["promise"].unique(maintain_order=True).to_list()
    values, scale = [1e-4, 1e-3, 0.01, 0.05, 0.1, 0.5], logarithmic(_FLOOR, 0.5, clamp=True, nice=True)
    x = quantity("drawn", "Loss achieved on held-out text", percent=True, values=values, **scale)
    domains = data["domain"].unique(maintain_order=True).to_list()
    y = alt.Y("domain:N", sort=domains, axis=alt.Axis(title=None, grid=False))
    colour = alt.Color("above:N", scale=alt.Scale(domain=[False, True], range=[BLUE, VERMILION]), legend=None)
    base = alt.Chart(data)
    ticks = base.mark_tick(thickness=1, size=13, opacity=0.35).encode(x=x, y=y, color=colour)
    mean = base.mark_point(shape="diamond", size=80, filled=True, color=INK, opacity=1)
    mean = mean.transform_aggregate(drawn="mean(achieved)", groupby=["promise", "domain"]).encode(x=x, y=y)
    goal = base.mark_rule(color=INK, strokeDash=[2, 2]).encode(x=alt.X("mean(goal):Q"))
    chart = alt.layer(ticks, goal, mean, data=data).properties(width=WIDTH - 50, height=alt.Step(20))
    placed = {"labelAngle": 0, "labelAnchor": "start", "labelOrient": "top", "labelPadding": 2}
    header = alt.Header(title=None, labelFontWeight="bold", **placed)
    facets = chart.facet(row=alt.Row("promise:N", sort=order, header=header), spacing=12)
    return Figure(
        "calibration",
        "Promised and achieved loss, every head in every domain",
        facets,
        data.drop("drawn", "above"),
        "A tick is one head on the held-out texts of a domain, red where its loss is above the promise (dotted line); the "
        "diamond is the domain's mean. Each head was promised its loss on average over texts like the "
        "threshold texts, so single red ticks are expected; a diamond to the right of the line is a promise "
        "broken on that domain as a whole. Losses below 0.01 % are drawn at 0.01 %. With few threshold texts "
        "a domain this shows how far calibration carries once, not how far it carries on average.",
        sources=("frontier.points",),
    )


def _table(achieved: pl.DataFrame) -> Table:
    loss = pl.col("achieved")
    columns = {
        "metric": Column("Loss"),
        "goal": Column("Target", "percent"),
        "domain": Column("Domain"),
        "mean": Column("Achieved, mean", "percent", loss.mean()),
        "p95": Column("p95 head", "percent", loss.quantile(0.95, "higher")),
        "worst": Column("Worst head", "percent", loss.max()),
        "where": Column("which is", "text", pl.struct(pl.col("layer", "head").get(loss.arg_max()))),
        "above": Column("Above", "percent", (loss > pl.col("goal")).mean()),
        "kept": Column("Kept", "yes_no", loss.mean() <= pl.col("goal").first()),
    }
    data = aggregated(achieved, ["metric", "goal", "domain"], columns)
    return Table(
        "calibration_table",
        "Target and achieved loss by domain. Above: share of heads whose own loss is above the target. Kept: "
        "whether the mean is not.",
        data.with_columns(pl.col("metric").replace(RISKS), in_words("where", head_name)),
        columns,
        sources=("frontier.points",),
    )


CHAPTER = Chapter(
    "calibration", "Calibration", build, front=("calibration",), needs=("frontier.points", "frontier.sweep")
)
