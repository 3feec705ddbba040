"""Stage `certificates`: what is proved of every query, and what the proof costs."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, HeadlineFigure, Prose, Table, figures
from ghostkv.report.expressions import in_words, near
from ghostkv.report.numbers import integer, percent
from ghostkv.report.results import Results
from ghostkv.report.sections.certificates.contexts import CONTEXT, CONTEXT_HEADLINE, context_figure, contexts
from ghostkv.report.sections.certificates.figures import (
    TIGHTNESS,
    mass_figure,
    mean,
    pooled,
    pooled_heads,
    promise,
)
from ghostkv.report.sections.certificates.ladder import ladder
from ghostkv.report.sections.certificates.randomised import RANDOMISED_HEADLINE, randomised
from ghostkv.stages.certificates.schemas import DITHERED, NESTED
from ghostkv.stages.certificates.tables import held

TABLE, CHECKS = "certificates.certificates", "certificates.checks"
# SQL: checks that arithmetic promises. A dithered record promises only its K in full without the chance of failure.
_ALWAYS = f"design <> '{DITHERED}' OR level = 2"
_KINDS = {
    "margin": "score of a (query, key) pair lies within its bounds, level by level",
    "topk": "key left out lies outside the exact top-k",
    "mass": "dropped mass of a query is at most its target",
    "output": "error of a query's compensated output is at most its certified bound",
}


def build(results: Results) -> Sequence[Block]:
    """What is certified, where, at what cost, and that no check failed."""
    frame = results.table(TABLE)
    deltas = sorted(results.config["certificates"]["deltas"], reverse=True)
    blocks: list[Block] = [Prose(_reading(results, frame)), _summary(frame)]
    blocks += [mass_figure(frame, delta) for delta in deltas[:2]]
    return [
        *blocks,
        _layers(frame, deltas[0]),
        _domains(frame, deltas),
        *context_figure(results),
        contexts(results),
        *randomised(results, frame),
        *(ladder(frame, delta) for delta in deltas[:2]),
        _designs(frame, deltas[0]),
        _checks(results),
    ]


def _reading(results: Results, frame: pl.DataFrame) -> str:
    checks = results.table(CHECKS).filter(pl.sql_expr(_ALWAYS))
    total, broken = int(checks["checks"].sum()), int(checks["violations"].sum())
    bits = results.config["certificates"]["levels"]
    verdict = (
        "none failed"
        if not broken
        else f"**{broken:,} failed, so at least one proof or its rounding is wrong**"
    )
    return (
        "A calibrated threshold promises something on average; a certificate promises it of every query, by "
        "arithmetic. *Top-k*: no key is left out that could be among the "
        f"{results.frontier['top_k']} best, so FER is 0. *Dropped mass*: the keys left out together hold at most the stated share of "
        f"the softmax mass. Every promise was verified against exact scores: {integer(total)} checks, {verdict}.\n\n"
        "Each key has a record of "
        f"{len(bits)} levels ({', '.join(f'{each:g}' for each in bits)} bits a coordinate), and a level is read only for "
        "keys that the levels before leave undecided. Nothing is calibrated for either, and a badly fitted codec costs "
        "elimination, never truth. In "
        "*nested* storage the record with its last planes is the stored K, and a survivor pays for the planes that it lacks; "
        "in *additive* storage the record lies beside a float16 K. *Elimination* counts keys never read beyond their "
        "record; *V unread* adds those that K in full still ruled out. *Tightness* is certified elimination over that of "
        "exact scores at the same target."
    )


def _summary(frame: pl.DataFrame) -> Table:
    nested = frame.filter(pl.col("design") == NESTED)
    data = pooled(nested, ["certificate", "target", "storage", "decision"]).sort(
        pl.col("certificate") != "topk",
        -pl.col("target"),
        pl.col("storage") != "nested",
        pl.col("decision") != "head",
    )
    return Table(
        "certificates",
        "What is certified on held-out texts, means over all layers, heads and queries. The certified mass is what "
        "the arithmetic allows at most, the dropped mass what it was; the output error is that of the compensated output, "
        "relative, mean over queries, beside its certified bound. GQA-true counts levels, K and V once a group. Where the "
        "group decides, its heads leave out the same keys, each within its own target; exact scores then decide so too.",
        data.with_columns(promise()),
        {
            "promise": Column("Certificate"),
            "storage": Column("K stored"),
            "decision": Column("Decided by"),
            "elimination": Column("Elimination", "percent"),
            "values_unread": Column("V unread", "percent"),
            "oracle_elimination": Column("Exact scores", "percent"),
            "tightness": Column("Tightness", "ratio"),
            "bytes_ratio": Column("Bytes per head", "ratio"),
            "bytes_ratio_gqa": Column("GQA-true", "ratio"),
            "dropped_mass_mean": Column("Dropped mass", "percent"),
            "dropped_mass_max": Column("worst query", "percent"),
            "certified_mass_mean": Column("certified", "percent"),
            "output_error_mean": Column("Output error", "percent"),
            "output_error_bound_mean": Column("certified", "percent"),
            "violations": Column("Violations", "integer"),
        },
        sources=(TABLE,),
    )


def _layers(frame: pl.DataFrame, delta: float) -> Table:
    topk, mass = held(frame, "nested", "topk"), held(frame, "nested", "mass", delta)
    rows = pooled(mass, ["layer"]).join(pooled(topk, ["layer"]), on="layer", suffix="_topk").sort("layer")
    worst = pooled_heads(mass).sort("elimination").group_by("layer", maintain_order=True).first()
    worst = worst.select("layer", pl.col("elimination").alias("worst"), pl.col("head").alias("worst_head"))
    return Table(
        "certificates_layers",
        f"Both certificates by layer, nested storage; mass is dropped mass ≤ {percent(delta)}, the worst head is the one with "
        "the least certified elimination.",
        rows.join(worst, on="layer", how="left"),
        {
            "layer": Column("Layer", "integer"),
            "elimination_topk": Column("Top-k: elimination", "percent"),
            "bytes_ratio_topk": Column("bytes", "ratio"),
            "bytes_ratio_gqa_topk": Column("GQA-true", "ratio"),
            "elimination": Column("Mass: elimination", "percent"),
            "oracle_elimination": Column("exact scores", "percent"),
            "tightness": Column("tightness", "ratio"),
            "bytes_ratio": Column("bytes", "ratio"),
            "bytes_ratio_gqa": Column("GQA-true", "ratio"),
            "worst": Column("worst head", "percent"),
            "worst_head": Column("which", "integer"),
        },
        sources=(TABLE,),
    )


def _domains(frame: pl.DataFrame, deltas: Sequence[float]) -> Table:
    parts = [held(frame, "nested", "topk"), *(held(frame, "nested", "mass", delta) for delta in deltas)]
    data = pl.concat([pooled(part, ["certificate", "target", "domain"]) for part in parts])
    return Table(
        "certificates_domains",
        "The same by domain, nested storage: one held-out text or more each, so differences between domains are "
        "differences between a few documents.",
        data.with_columns(promise()),
        {
            "promise": Column("Certificate"),
            "domain": Column("Domain"),
            "elimination": Column("Elimination", "percent"),
            "tightness": Column("Tightness", "ratio"),
            "bytes_ratio": Column("Bytes per head", "ratio"),
            "bytes_ratio_gqa": Column("GQA-true", "ratio"),
            "dropped_mass_max": Column("Dropped mass, worst query", "percent"),
            "violations": Column("Violations", "integer"),
        },
        sources=(TABLE,),
    )


def _designs(frame: pl.DataFrame, delta: float) -> Table:
    additive = frame.filter((pl.col("storage") == "additive") & (pl.col("decision") == "head"))
    topk = additive.filter(pl.col("certificate") == "topk")
    mass = additive.filter((pl.col("certificate") == "mass") & near("target", delta))
    data = pooled(topk, ["design"]).join(pooled(mass, ["design"]), on="design", suffix="_mass")
    data = data.sort("bytes_ratio").with_columns(in_words("design"))
    return Table(
        "certificates_designs",
        "The cascade beside bounds of one level, all with K in float16 beside the index; comparisons take fewer queries. "
        "A bound may be sound and still prove next to nothing: boxes around pages (as in Quest) and balls or cones around "
        f"clusters are loose in many dimensions. Mass is dropped mass ≤ {percent(delta)}.",
        data,
        {
            "design": Column("Bound"),
            "record_bytes": Column("Index bytes a key", "number"),
            "elimination": Column("Top-k: elimination", "percent"),
            "bytes_ratio": Column("bytes", "ratio"),
            "bytes_ratio_gqa": Column("GQA-true", "ratio"),
            "elimination_mass": Column("Mass: elimination", "percent"),
            "bytes_ratio_mass": Column("bytes", "ratio"),
            "violations": Column("Violations", "integer"),
        },
        sources=(TABLE,),
    )


def _checks(results: Results) -> Table:
    bounds = {NESTED: "cascade", DITHERED: "dithered record, by chance"}
    counts = (
        results.table(CHECKS)
        .with_columns(pl.col("design").replace_strict(bounds, default="other bounds"))
        .group_by("what", "design", maintain_order=True)
        .agg(pl.col("checks", "violations").sum())
        .with_columns(pl.col("what").replace(_KINDS))
    )
    total = counts.select(
        pl.lit("all").alias("what"), pl.lit("").alias("design"), pl.col("checks", "violations").sum()
    )
    return Table(
        "certificates_checks",
        "What was verified against exact scores. A (query, key) pair counts once for each level of a record that bounds it, "
        "since each level makes a promise of its own.",
        pl.concat([counts.select(total.columns), total]),
        {
            "what": Column("Promise"),
            "design": Column("Bounds"),
            "checks": Column("Checks", "integer"),
            "violations": Column("Violations", "integer"),
        },
        sources=(CHECKS,),
    )


def _figures(name: str, rows: str, *wanted: str) -> tuple[HeadlineFigure, ...]:
    """Figures of the cascade in nested storage, over the rows of one promise."""
    values = {"elimination": ("share", mean("elimination")), "tightness": ("ratio", TIGHTNESS)}
    values |= {ratio: ("ratio", mean(ratio)) for ratio in ("bytes_ratio", "bytes_ratio_gqa")}
    shown = {f"certificates.{name.format(value)}": values[value] for value in wanted}
    return figures(TABLE, f"self WHERE {rows}", shown, by_text=TABLE)


_OWN = f"design = '{NESTED}' AND storage = 'nested' AND certificate ="
_MASS = tuple(
    f"{_OWN} 'mass' AND target > {0.99 * share} AND target < {1.01 * share} AND decision ="
    for share in (0.05, 0.01)
)
_MASS_5, _MASS_1 = (f"{rows} 'head'" for rows in _MASS)
# Layers but the one whose attention is most spread out, where even exact scores eliminate least.
_DENSEST = f"SELECT layer FROM self WHERE {_MASS_5} GROUP BY layer ORDER BY AVG(oracle_elimination) LIMIT 1"
HEADLINE = (
    *figures(
        CHECKS,
        f"self WHERE {_ALWAYS}",
        {f"certificates.{what}": ("checks", f"SUM({what})") for what in ("violations", "checks")},
    ),
    *_figures("topk.{}", f"{_OWN} 'topk'", "elimination", "bytes_ratio", "bytes_ratio_gqa"),
    *_figures("mass_5pct.{}", _MASS_5, "elimination", "bytes_ratio", "bytes_ratio_gqa", "tightness"),
    *_figures(
        "mass_5pct.{}_but_densest", f"{_MASS_5} AND layer NOT IN ({_DENSEST})", "elimination", "bytes_ratio"
    ),
    *_figures("mass_1pct.{}", _MASS_1, "elimination", "bytes_ratio", "bytes_ratio_gqa", "tightness"),
    *(
        figure
        for name, rows in zip(("mass_5pct", "mass_1pct"), _MASS, strict=True)
        for figure in _figures(
            f"{name}.group.{{}}", f"{rows} 'group'", "elimination", "bytes_ratio_gqa", "tightness"
        )
    ),
    *CONTEXT_HEADLINE,
    *RANDOMISED_HEADLINE,
)

CHAPTER = Chapter(
    "certificates",
    "What can be proved",
    build,
    front=("certificates_mass_5pct", "certificates"),
    needs=(TABLE, CONTEXT, CHECKS),
    headline=HEADLINE,
)
