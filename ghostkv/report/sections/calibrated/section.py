"""Stage `calibrated`: what a threshold can promise, what it keeps, and what a group or a trained frame changes."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, HeadlineFigure, Prose, Table, figures
from ghostkv.report.expressions import RISKS, aimed_at, in_words, means, near
from ghostkv.report.numbers import percent, ratio
from ghostkv.report.results import FER_BITS, Results, words
from ghostkv.report.sections.calibrated import validity
from ghostkv.report.sections.calibrated.figures import (
    bands_figure,
    compensation_figure,
    cross_domain_figure,
    output_goals,
    own_codec,
    summary,
)
from ghostkv.report.summaries import head_name

_DECISIONS = {
    "head": "each head, own survivors",
    "united": "each head, all that the group reads",
    "group": "group, one statistic",
    "group_offset": "group, shifted from the heads' thetas",
}


def build(results: Results) -> Sequence[Block]:
    """Promises first, then compensation, domains, positions, groups, the learned frame."""
    blocks: list[Block] = [Prose(_reading(results)), _goals(results), _dependence(results)]
    if output_goals(results).height:
        blocks += [Prose(_about_compensation(results)), compensation_figure(results)]
    blocks += validity.blocks(results)
    # A goal that the config leaves out leaves its table empty.
    if results.table("calibrated.cross_domain").height:
        blocks.append(cross_domain_figure(results))
    blocks.append(bands_figure(results))
    if summary(results, pl.col("decision") == "group").height:
        blocks.append(_decisions(results))
    if results.table("calibrated.learned").height:
        blocks.append(_learned(results))
    return blocks


def _reading(results: Results) -> str:
    points = results.table("calibrated.calibrated")
    samples, floor = points["calibration_queries"].max(), points["floor"].max()
    text = "A calibrated threshold promises a mean, not a bound."
    size = pl.col("code_bytes") == results.fer_bytes
    row = summary(results, own_codec(results), results.is_rule, aimed_at("fer", 0.01), size)
    if row.height:
        found = row.row(0, named=True)
        text += (
            f" **FER ≤ 1 %, {results.size(FER_BITS)}:** {percent(found['elimination'])} of cold keys eliminated "
            f"at a bytes ratio of {ratio(found['bytes_ratio'])} (GQA-true {ratio(found['bytes_ratio_gqa'])}); "
            f"measured FER {percent(found['achieved'])}, worst head {percent(found['achieved_worst_head'])}, "
            f"{percent(found['heads_under'])} of {found['heads']} heads under the target."
        )
    return (
        f"{text}\n\nPer head, theta is the largest for which "
        "n/(n+1) times the mean risk on threshold texts plus 1/(n+1) is at most the target (conformal risk "
        f"control), with n = {samples} queries a head. For exchangeable queries the expected risk of a new "
        f"one is then at most the target; below 1/(n+1) = {percent(floor)} nothing can be promised. FER and "
        "dropped mass grow with theta, as the theorem needs. The output error need not, so its thresholds "
        "are a plug-in: the same rule, no promise."
    )


def _goals(results: Results) -> Table:
    sizes = pl.col("code_bytes").is_in([results.headline["bytes"], results.fer_bytes])
    data = (
        summary(
            results,
            own_codec(results),
            pl.col("compensation") == "none",
            sizes | ((pl.col("target_metric") == "fer") & results.is_rule),
        )
        .with_columns(
            pl.col("target_metric").replace(RISKS),
            in_words("rule"),
            pl.struct(pl.col("worst_layer").alias("layer"), pl.col("worst_head").alias("head"))
            .map_elements(head_name, return_dtype=pl.String)
            .alias("where"),
        )
        .sort("target_metric", "target", "rule", "code_bytes", descending=[False, False, True, False])
    )
    return Table(
        "calibrated_goals",
        "Target and achieved risk on held-out texts, each head with its own threshold "
        f"({words(results.headline['codec'])}). If exchangeable: whether conformal risk control covers the row where a "
        "new query is exchangeable with the calibration queries. Effective n: what those are worth as a sample of "
        "texts, and its floor, below which nothing can be promised of other texts. "
        "Under: share of heads whose own risk, over all held-out texts, is within the target; a promise of "
        f"means lets some lie above. Other sizes, and each domain: {results.path('calibrated.summary')}.",
        data,
        {
            "target_metric": Column("Risk"),
            "target": Column("Target", "percent"),
            "rule": Column("Rule"),
            "code_bytes": Column("Code bytes", "integer"),
            "guaranteed_if_exchangeable": Column("If exchangeable", "yes_no"),
            "effective_queries": Column("Effective n", "integer"),
            "effective_floor": Column("its floor", "percent"),
            "achieved": Column("Achieved", "percent"),
            "achieved_worst_head": Column("Worst head", "percent"),
            "where": Column("which is"),
            "heads_under": Column("Under", "percent"),
            "elimination": Column("Elimination", "percent"),
            "bytes_ratio": Column("Bytes ratio", "ratio"),
            "bytes_ratio_gqa": Column("GQA-true", "ratio"),
        },
        sources=("calibrated.summary",),
    )


def _dependence(results: Results) -> Table:
    data = (
        results.table("calibrated.dependence")
        .filter(results.is_headline, pl.col("compensation") == "none", pl.col("role") == "threshold")
        .with_columns(pl.col("target_metric").replace(RISKS))
    )
    return Table(
        "calibrated_dependence",
        "What the promise rests on. Queries of one text resemble each other, so n of them are worth fewer "
        "independent ones: the correlation is the share of a query's risk variance that its text decides "
        "(heads pooled), the effective number is n over Kish's design effect, and its floor is the honest "
        "one for queries of other texts; with high probability it is that of a threshold which may fail in a stated share of "
        "calibrations. Taking whole texts as the samples, the floor is 1/(texts + 1): at "
        "that level nothing here is promised. Two or three texts estimate a correlation only roughly.",
        data,
        {
            "target_metric": Column("Risk"),
            "target": Column("Target", "percent"),
            "texts": Column("Texts", "integer"),
            "queries": Column("Queries n", "integer"),
            "floor": Column("1/(n+1)", "percent"),
            "correlation": Column("Correlation", "percent"),
            "effective_queries": Column("Effective n", "integer"),
            "effective_floor": Column("its floor", "percent"),
            "high_floor": Column("with high probability", "percent"),
            "text_floor": Column("Floor over texts", "percent"),
        },
        sources=("calibrated.dependence",),
    )


def _about_compensation(results: Results) -> str:
    text = (
        "**Tail compensation.** An eliminated key's record still says how much softmax mass it has; only its "
        "value is unknown. Putting the running mean of the cold values in its place costs one vector per KV "
        "head, whatever the context; page means cost one vector a page. Both are counted."
    )
    target = results.config["calibrated"]["targets"]["output_error"][0]
    rows = output_goals(results).filter(near("target", target))
    best = rows.filter(pl.col("compensation") == "mean").sort("bytes_ratio")
    without = rows.filter(pl.col("compensation") == "none").sort("bytes_ratio")
    if best.height and without.height:
        found, plain = best.row(0, named=True), without.row(0, named=True)
        text += (
            f" At a mean output error of {percent(target, 0)} per head, {words(found['rule'])} eliminates "
            f"{percent(found['elimination'])} at a bytes ratio of {ratio(found['bytes_ratio'])} (GQA-true "
            f"{ratio(found['bytes_ratio_gqa'])}) with compensation, {percent(plain['elimination'])} at "
            f"{ratio(plain['bytes_ratio'])} without; measured error {percent(found['achieved'])} and "
            f"{percent(plain['achieved'])}."
        )
    return text


def _decisions(results: Results) -> Table:
    data = (
        summary(
            results,
            results.is_record,
            pl.col("compensation") == "none",
        )
        .filter(pl.struct("rule", "target_metric", "target").is_in(_shared_goals(results)))
        .with_columns(
            pl.col("decision").replace_strict(list(_DECISIONS), range(len(_DECISIONS))).alias("order"),
            pl.col("decision").replace(_DECISIONS),
            pl.col("target_metric").replace(RISKS),
            in_words("rule"),
        )
        .sort("target_metric", "target", "rule", "order", descending=[True, False, True, False])
    )
    return Table(
        "calibrated_decisions",
        "Who decides, per head or per group. Heads of a group read one set of bytes anyway, so a head may "
        "attend to what the others keep, or the group may choose one set from the outset: the largest of its "
        "heads' statistics against one theta. All rows are calibrated for the same risk per head; compare "
        "the GQA-true bytes at the risk achieved. The last kind shifts the heads' own thetas together, "
        "calibrated on the same queries, hence without a promise.",
        data,
        {
            "target_metric": Column("Risk"),
            "target": Column("Target", "percent"),
            "rule": Column("Rule"),
            "decision": Column("Decision"),
            "guaranteed_if_exchangeable": Column("If exchangeable", "yes_no"),
            "achieved": Column("Achieved", "percent"),
            "achieved_worst_head": Column("Worst head", "percent"),
            "elimination": Column("Elimination", "percent"),
            "bytes_ratio": Column("Bytes per head", "ratio"),
            "bytes_ratio_gqa": Column("GQA-true", "ratio"),
        },
        sources=("calibrated.summary",),
    )


def _shared_goals(results: Results) -> pl.Series:
    shared = summary(results, pl.col("decision") == "group")
    return shared.select(pl.struct("rule", "target_metric", "target")).to_series().implode()


def _learned(results: Results) -> Table:
    bounds = results.table("calibrated.learned")
    layers = bounds["layer"].unique().to_list()
    quality = bounds.group_by("codec", maintain_order=True).agg(
        pl.col("pairs", "violations").sum(), means("score_rmse", "margin_mean", "loss_first", "loss_last")
    )
    points = results.table("calibrated.calibrated").filter(
        pl.col("layer").is_in(layers),
        pl.col("decision") == "head",
        pl.col("code_bytes") == results.headline["bytes"],
    )
    data = quality
    for name, metric, target in (("fer", "fer", 0.01), ("mass", "dropped_mass", 0.05)):
        rule = results.headline["rule"] if metric == "fer" else "relative_lse"
        found = points.filter(aimed_at(metric, target), pl.col("rule") == rule)
        both = means("elimination", "achieved").name.prefix(f"{name}_")
        data = data.join(found.group_by("codec").agg(both), on="codec", how="left")
    return Table(
        "calibrated_learned",
        f"A frame trained for elimination beside the derived one, {results.size(results.headline['bits'])}, "
        f"layers {', '.join(map(str, layers))}. Training starts from the derived frame and minimises a "
        "smooth count of needless survivors at a fixed share of lost top keys on codec texts. Loss: first "
        "and last step. The bound is measured in each codec's own frame, so violations must be 0 for both.",
        data.with_columns(in_words("codec")),
        {
            "codec": Column("Codec"),
            "loss_first": Column("Loss before", "number"),
            "loss_last": Column("after", "number"),
            "score_rmse": Column("Score error", "number"),
            "margin_mean": Column("Margin", "number"),
            "violations": Column("Violations", "integer"),
            "pairs": Column("Pairs checked", "integer"),
            "fer_elimination": Column("Elimination, FER ≤ 1 %", "percent"),
            "fer_achieved": Column("FER", "percent"),
            "mass_elimination": Column("Elimination, mass ≤ 5 %", "percent"),
            "mass_achieved": Column("Dropped mass", "percent"),
        },
        sources=("calibrated.learned", "calibrated.calibrated"),
    )


def _figures(goal: str, rows: str, achieved: str) -> tuple[HeadlineFigure, ...]:
    own = "codec = '{codec}' AND decision = 'head'"
    values = {
        "elimination": ("share of cold keys", "avg(elimination)"),
        "bytes_ratio": (_FULL, "avg(bytes_ratio)"),
        "bytes_ratio_gqa": (_FULL, "avg(bytes_ratio_gqa)"),
        "achieved": (achieved, "avg(achieved)"),
    }
    every, count = f"self WHERE {own} AND domain = 'all' AND {rows}", "coalesce(sum(heads), 0)"
    return tuple(
        HeadlineFigure(
            f"calibrated.{goal}.{name}",
            unit,
            "calibrated.summary",
            f"SELECT {value} AS value, {count} AS n FROM {every}",
            (
                "calibrated.calibrated",
                f"SELECT text, {value} AS value FROM self WHERE {own} AND {rows} GROUP BY text ORDER BY text",
            ),
        )
        for name, (unit, value) in values.items()
    ) + figures(
        "calibrated.summary",
        every,
        {f"calibrated.{goal}.heads_under": ("share of heads", "avg(heads_under)")},
        count,
    )


_FULL = "bytes read / bytes of full fp16 K and V"
_FER = (
    "code_bytes = {fer_bytes} AND rule = '{rule}' AND target_metric = 'fer' AND abs(target - 0.01) < 0.000001"
)
_OUTPUT = (
    "code_bytes = {bytes} AND rule = 'relative_lse' AND target_metric = 'output_error' AND compensation = "
    "'mean' AND abs(target - 0.05) < 0.000001"
)
HEADLINE = (
    *_figures("fer_1pct", _FER, "share of exact top-k keys"),
    # A mean of errors is no promise, so that no head is under it or over it.
    *_figures("output_error_5pct", _OUTPUT, "relative error of a head's output, mean")[:4],
    *validity.HEADLINE,
)

CHAPTER = Chapter(
    "calibrated",
    "What can be calibrated",
    build,
    front=("calibrated_goals",),
    needs=(
        "calibrated.calibrated",
        "calibrated.bands",
        "calibrated.cross_domain",
        "calibrated.learned",
        "calibrated.summary",
        "calibrated.dependence",
        "calibrated.validity",
        "calibrated.surely",
        "calibrated.alike",
        "calibrated.alarms",
    ),
    headline=HEADLINE,
)
