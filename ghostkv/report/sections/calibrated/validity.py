"""What calibrated promises are worth on other texts: repeated calibration, sure thresholds, exchangeability, the monitor."""

from __future__ import annotations

import altair as alt
import polars as pl

from ghostkv.report.document import Block, Column, Figure, HeadlineFigure, Prose, Table
from ghostkv.report.expressions import RISKS, in_words, promised
from ghostkv.report.numbers import percent
from ghostkv.report.results import Results
from ghostkv.report.theme import BLUE, ON_BRIGHT, VERMILION, WIDTH, top_legend

_DRAWS = {
    "queries": "queries, independent",
    "texts": "whole texts",
    "split": "whole texts, tested on the others",
}
_METHODS = {"conformal": "conformal", "hoeffding_bentkus": "Hoeffding-Bentkus", "betting": "betting"}


def blocks(results: Results) -> list[Block]:
    """Repeated calibration first, then what surer thresholds cost, then whether texts are alike, then the monitor."""
    found: list[Block] = []
    if results.table("calibrated.validity").height:
        found += [Prose(_reading(results)), _validity(results), _surely(results), _alike(results)]
    if results.table("calibrated.alarms").height:
        found.append(_alarms(results))
    return found


def _failure(results: Results) -> float:
    return float(results.config["calibrated"]["validity"]["failure"])


def _reading(results: Results) -> str:
    rows = results.table("calibrated.validity").filter(pl.col("draw") == "texts")
    sure = rows.filter(pl.col("allowed").is_not_null())
    mean = rows.filter(pl.col("allowed").is_null()).sort("target_excess").row(-1, named=True)
    worst = sure.sort(pl.col("above") - pl.col("allowed")).row(-1, named=True)
    kept = "within" if worst["above"] <= worst["allowed"] else "above"
    return (
        f"**Calibrated again and again.** {mean['calibrations']} calibrations a head on whole texts drawn from all measured "
        f"ones. Thresholds that may fail in {percent(_failure(results), 0)} of calibrations are above their target in at most "
        f"{percent(worst['above'])} of them (mean over heads, the worst risk, target and rule), {kept} what they allow. Of conformal "
        f"thresholds only the mean risk is bounded: it misses its target by at most {percent(mean['target_excess'], 2)} of all, "
        f"and {percent(mean['above'])} of those calibrations lie above it."
    )


def _validity(results: Results) -> Table:
    data = (
        results.table("calibrated.validity")
        .filter(results.is_rule)
        .with_columns(
            pl.col("target_metric").replace(RISKS),
            pl.col("draw").replace(_DRAWS),
            pl.col("method").replace(_METHODS),
        )
    )
    return Table(
        "calibrated_validity",
        "Calibration repeated on resampled documents, mean over heads. Drawn are single queries or whole texts (with "
        "replacement, held against the pool that they are drawn from, so that the true risk is known), or whole texts held against "
        "the texts that were not drawn. The theory speaks of independent queries: the first draw tests the arithmetic, the others "
        "what dependence within a text does to it. Conformal thresholds bound the mean risk, so their share above has no bound "
        "of its own. In the last draw the tested texts are few, and their own scatter adds to the share.",
        data,
        {
            "target_metric": Column("Risk"),
            "target": Column("Target", "percent"),
            "draw": Column("Drawn"),
            "method": Column("Threshold"),
            "queries": Column("Queries n", "integer"),
            "promising": Column("Can promise", "percent"),
            "risk": Column("Mean risk", "percent"),
            "above": Column("Share above target", "percent"),
            "allowed": Column("Allowed", "percent"),
        },
        sources=("calibrated.validity",),
    )


def _surely(results: Results) -> Table:
    data = (
        results.table("calibrated.surely")
        .filter(results.is_record)
        .with_columns(
            pl.col("target_metric").replace(RISKS), in_words("rule"), pl.col("method").replace(_METHODS)
        )
        .sort("target_metric", "target", "rule", maintain_order=True)
    )
    failure = percent(_failure(results), 0)
    return Table(
        "calibrated_surely",
        f"What it costs to be sure: thresholds whose mean risk is bounded (conformal) and thresholds that lie above the target in at "
        f"most {failure} of calibrations, on the same threshold texts, {results.design}. Both promises are for independent queries. Floor: "
        "the least target that so many queries can promise; with the effective number of queries it is in the table of dependence.",
        data,
        {
            "target_metric": Column("Risk"),
            "target": Column("Target", "percent"),
            "rule": Column("Rule"),
            "method": Column("Threshold"),
            "floor": Column("Floor", "percent"),
            "achieved": Column("Achieved", "percent"),
            "heads_under": Column("Under", "percent"),
            "elimination": Column("Elimination", "percent"),
            "bytes_ratio": Column("Bytes ratio", "ratio"),
            "bytes_ratio_gqa": Column("GQA-true", "ratio"),
        },
        sources=("calibrated.surely",),
    )


def _alike(results: Results) -> Table:
    data = (
        results.table("calibrated.alike")
        .filter(results.is_record)
        .with_columns(pl.col("target_metric").replace(RISKS), in_words("rule"))
    )
    return Table(
        "calibrated_alike",
        "Whether documents are exchangeable, at one threshold a head that all measured texts choose together. Queries: heads for which "
        "it is rejected that a query's risk does not depend on its text (queries permuted over texts). Roles: heads for which it is "
        "rejected that threshold and held-out texts lose alike (texts permuted). Both counts hold the false discovery rate at 5 % "
        "however heads depend on each other (Benjamini and Yekutieli). p: the roles again, one test of all heads together; "
        "least: the smallest p that so few texts can give.",
        data,
        {
            "target_metric": Column("Risk"),
            "target": Column("Target", "percent"),
            "rule": Column("Rule"),
            "heads": Column("Heads", "integer"),
            "texts": Column("Texts", "integer"),
            "rejected_queries": Column("Queries: rejected", "integer"),
            "rejected_roles": Column("Roles: rejected", "integer"),
            "p_roles": Column("p", "number"),
            "p_least": Column("least", "number"),
            "threshold_mean": Column("Threshold texts", "percent"),
            "held_out_mean": Column("Held-out texts", "percent"),
        },
        sources=("calibrated.alike",),
    )


def _alarms(results: Results) -> Figure:
    texts = results.table("calibrated.alarms").with_columns(
        (pl.col("risk_mean") / pl.col("target").cast(pl.Float64)).alias("share")
    )
    by = ["rule", "target_metric", "target", "calibrated_on", "tested_on"]
    data = (
        texts.group_by(by, maintain_order=True)
        .agg(
            pl.len().alias("texts"),
            pl.col("alarm").count().alias("alarms"),
            pl.col("alarm").min().alias("first_alarm"),
            pl.col("steps").max(),
            pl.col("share").mean(),
            pl.col("evidence").max(),
        )
        .with_columns(
            pl.format("{}, {}", promised(), in_words("rule")).alias("promise"),
            pl.when(pl.col("alarms") > 0)
            .then(pl.format("{} of {}, step {}", "alarms", "texts", "first_alarm"))
            .otherwise(pl.lit("none"))
            .alias("label"),
        )
    )
    axis = alt.Axis(grid=False, labelAngle=0)
    base = alt.Chart(data).encode(
        x=alt.X("tested_on:N", title="Monitored on", axis=axis),
        y=alt.Y("calibrated_on:N", title="Calibrated on", axis=axis),
    )
    colour = alt.Color(
        "share:Q",
        scale=alt.Scale(domain=[0, 1, 2], range=[BLUE, "#f7f7f7", VERMILION], clamp=True),
        legend=top_legend(title="Mean risk / target"),
    )
    cells = base.mark_rect().encode(color=colour) + base.mark_text(color=ON_BRIGHT, fontSize=10).encode(
        text="label:N"
    )
    chart = cells.properties(width=(WIDTH - 110) // 2, height=alt.Step(26)).facet(
        facet=alt.Facet("promise:N", header=alt.Header(title=None, labelFontWeight="bold")), columns=2
    )
    alarm = results.config["calibrated"]["validity"]["alarm"]
    return Figure(
        "calibrated_alarms",
        "When a monitor raises its alarm on a text of another domain",
        chart,
        data.drop("promise", "label"),
        "A monitor bets, query by query, that the dropped mass (mean over all heads) exceeds the target; it "
        f"raises an alarm when its capital has grown {1 / alarm:g}-fold. While each step's expected risk is "
        f"within the target that happens with a probability of at most {percent(alarm, 0)}, whenever one looks. "
        "A cell has the held-out texts of one domain: how many raised an alarm, and the earliest step. Queries "
        "of a text depend on each other, so an alarm where the mean is within the target is a stretch of the "
        "text that is above it.",
        sources=("calibrated.alarms",),
    )


_TEXTS = "self WHERE draw = 'texts'"
HEADLINE = (
    HeadlineFigure(
        "calibrated.validity_excess",
        "share of calibrations on resampled texts above target, less the share that is allowed; the worst goal",
        "calibrated.validity",
        f"SELECT max(above - allowed) AS value, coalesce(max(calibrations), 0) AS n FROM {_TEXTS} AND allowed IS NOT NULL",
    ),
    HeadlineFigure(
        "calibrated.validity_mean_excess",
        "mean risk of conformal calibrations on resampled texts, less the target; the worst goal",
        "calibrated.validity",
        f"SELECT max(target_excess) AS value, coalesce(max(calibrations), 0) AS n FROM {_TEXTS} AND allowed IS NULL",
    ),
)
