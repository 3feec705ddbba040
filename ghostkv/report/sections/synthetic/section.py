"""Stage `synthetic`: generated tensors, what was measured of them beside what must come out."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, HeadlineFigure, Prose, Table, aggregated, figures
from ghostkv.report.expressions import in_words, near
from ghostkv.report.numbers import counted, number, percent
from ghostkv.report.results import Results
from ghostkv.report.sections.synthetic.figures import (
    bytes_figure,
    decode_figure,
    design_named,
    deviation_figure,
    overlap_figure,
    tradeoff_figure,
)


def build(results: Results) -> Sequence[Block]:
    """Closed forms kept or not, sketch quality, trade-off, bytes by context, and a decode with planted keys."""
    checks, points = results.table("synthetic.checks"), results.table("synthetic.points")
    decode = results.table("synthetic.decode")
    target = min(results.targets("fer"), default=None)
    blocks: list[Block] = [
        Prose(_reading(results)),
        overlap_figure(results),
        deviation_figure(checks),
        _deviation_table(checks),
        Prose(_honesty(results)),
    ]
    if target is not None:
        blocks += [tradeoff_figure(results, target), _points_table(results, points, target)]
        blocks += [bytes_figure(results, target)]
    return [*blocks, decode_figure(decode), _decode_table(decode), _needle_table(decode)]


def _exact(checks: pl.DataFrame) -> pl.DataFrame:
    return checks.filter(pl.col("kind") == "exact", pl.col("sigma").is_not_null())


def _reading(results: Results) -> str:
    exact = _exact(results.table("synthetic.checks"))
    text = (
        "Here the tensors are generated, so what must come out is known. The same codecs, sweeps and rules run on them as "
        "on captures. "
    )
    if exact.height:
        worst, limit = exact["sigma"].max(), exact["limit"][0]
        kept = "and all keep to it" if worst <= limit else "**and it is passed**"
        text += (
            f"Of {counted(exact.height, 'comparison')} with an exact closed form the worst lies {number(worst)} standard "
            f"errors off; so many comparisons pass {number(limit)} by chance once in a hundred runs, which is the limit, "
            f"{kept}. "
        )
    violations = results.table("synthetic.audit").filter(pl.col("measure") == "violations")["value"].sum()
    text += f"Margins of records were exceeded {violations:,.0f} times. "
    asked = results.table("synthetic.decode").drop_nulls("needle_found")
    if asked.height:
        recall = asked["needle_found"].mean()
        text += (
            f"In the decode, {percent(recall, 2)} of the heads that asked for a planted key still had it "
            f"({counted(asked.height, 'question')}); a group as a whole "
            f"had it in {percent(asked['needle_found_group'].mean())}."
        )
    return text


def _honesty(results: Results) -> str:
    options = results.config["synthetic"]
    return (
        f"**How sure this is.** Queries of one draw share a projection and keys, so only draws count as repeats: "
        f"{counted(options['audit']['draws'], 'draw')} for closed forms, {options['tradeoff']['draws']} for trade-offs and "
        f"{options['decode']['draws']} for decodes, each with worlds of its own. *Exact* forms hold for every size but for "
        "rounding; *approximate* ones leave out higher orders or take a coarse code's estimates as normal, and are no part "
        "of that count. Generated tensors show that the lab measures what it says. They are no evidence about models: "
        "isotropic keys are the worst that a codec can meet, and no head of a real model is isotropic."
    )


def _deviation_table(checks: pl.DataFrame) -> Table:
    data = checks.filter(pl.col("sigma").is_not_null()).sort("kind", "sigma", descending=[True, True])
    data = (
        data.group_by("kind", maintain_order=True)
        .head(8)
        .with_columns(
            design_named().alias("design"),
            in_words("generator").alias("what"),
            in_words("measure").alias("measured_what"),
        )
    )
    return Table(
        "synthetic_deviations",
        "The closed forms that lie furthest off, eight of each kind. Deviation: measured less expected over its standard "
        "error (between draws), as the normal quantile of Student's t. At: top of an overlap, theta in standard deviations "
        "of a score, or planted mass.",
        data,
        {
            "kind": Column("Kind"),
            "what": Column("Generator"),
            "design": Column("Codec"),
            "measured_what": Column("Measure"),
            "at": Column("at", "number"),
            "measured": Column("Measured", "ratio"),
            "expected": Column("Expected", "ratio"),
            "standard_error": Column("SE", "tiny"),
            "sigma": Column("Deviation", "number"),
            "draws": Column("Draws", "integer"),
        },
        sources=("synthetic.checks",),
    )


def _points_table(results: Results, points: pl.DataFrame, target: float) -> Table:
    made = results.config["synthetic"]
    rows = points.filter(
        results.is_record_at(made["head_dim"]),
        pl.col("tokens") == made["tokens"],
        pl.col("target_metric") == "fer",
        near("target", target) | (pl.col("method") == "safe"),
    )
    columns = {
        "generator": Column("Generator"),
        "method": Column("Method"),
        "elimination": Column("Elimination", "percent"),
        "worst": Column("worst head", "percent", pl.col("elimination").min()),
        "expected_elimination": Column("expected", "percent"),
        "fer": Column("FER", "percent"),
        "worst_fer": Column("worst head", "percent", pl.col("fer").max()),
        "dropped_mass_mean": Column("Dropped mass", "percent"),
        "dropped_mass_p99": Column("worst p99", "percent", pl.col("dropped_mass_p99").max()),
        "bytes_ratio": Column("Bytes", "ratio"),
        "bytes_ratio_gqa": Column("GQA-true", "ratio"),
        "heads": Column("n", "integer", pl.len()),
    }
    return Table(
        "synthetic_points",
        f"Thresholds of the {results.design_at(made['head_dim'])} chosen on one generated text, measured on another. "
        f"Calibrated: FER ≤ {percent(target, 0)}; safe: as in the frontier. Expected: what one threshold on normal estimates would "
        "eliminate at the FER measured (for normal scores alone); the rule divides by each key's margin and so uses its residual "
        "norm, which the expectation does not. n counts heads over draws.",
        aggregated(rows, ["generator", "method"], columns).with_columns(in_words("generator")),
        columns,
        sources=("synthetic.points",),
    )


def _decode_table(decode: pl.DataFrame) -> Table:
    def p99(column: str) -> pl.Expr:
        return pl.col(column).quantile(0.99, "higher")

    columns = {
        "generator": Column("Generator"),
        "steps": Column("Steps", "integer", pl.len()),
        "elimination": Column("Elimination", "percent"),
        "elimination_p1": Column("p1", "percent", pl.col("elimination").quantile(0.01, "lower")),
        "bytes_ratio": Column("Bytes", "ratio"),
        "bytes_ratio_gqa": Column("GQA-true", "ratio"),
        "bytes_p99": Column("p99", "ratio", p99("bytes_ratio_gqa")),
        "fer": Column("FER", "percent"),
        "fer_p99": Column("p99", "percent", p99("fer_worst")),
        "dropped_mass": Column("Dropped mass", "percent"),
        "mass_p99": Column("p99", "percent", p99("dropped_mass_worst")),
    }
    return Table(
        "synthetic_decode_table",
        "The decode over all steps and draws. p1 and p99 are over steps; those of FER and mass take the worse head of a step.",
        aggregated(decode, "generator", columns).with_columns(in_words("generator")),
        columns,
        sources=("synthetic.decode",),
    )


def _needle_table(decode: pl.DataFrame) -> Table:
    columns = {
        "generator": Column("Generator"),
        "needle_wanted": Column("Wanted", "percent"),
        "needle_mass": Column("Mass", "percent"),
        "asked": Column("Asked", "integer", pl.len()),
        "age": Column("Median age", "integer", pl.col("needle_age").median()),
        "needle_found": Column("Found", "percent"),
        "needle_found_group": Column("group", "percent"),
    }
    data = aggregated(decode.drop_nulls("needle_found"), ["generator", "needle_wanted"], columns)
    return Table(
        "synthetic_needles",
        "Planted keys: is the key still there when a step asks for it? Wanted: its softmax mass if all other scores were "
        "centred and normal; mass: what it had. Found: share of heads that did not eliminate it; group: the KV head reads it. "
        "Where keys have a spectrum a planted key lies off it, in directions that the codec spends few bits on: a quiet one "
        "is lost more often than the keys that thresholds were chosen on.",
        data.sort("generator", "needle_wanted").with_columns(in_words("generator")),
        columns,
        sources=("synthetic.decode",),
    )


def _recall(name: str, column: str, unit: str) -> tuple[HeadlineFigure, ...]:
    return figures(
        "synthetic.decode", "self", {f"synthetic.{name}": (unit, f"avg({column})")}, f"count({column})"
    )


CHAPTER = Chapter(
    "synthetic",
    "Tensors whose law is known",
    build,
    front=("synthetic_overlap",),
    needs=("synthetic.audit", "synthetic.sweep", "synthetic.points", "synthetic.decode", "synthetic.checks"),
    headline=(
        *figures(
            "synthetic.checks",
            "self WHERE kind = 'exact'",
            {
                "synthetic.worst_deviation_sigma": ("standard errors", "max(sigma)"),
                "synthetic.deviation_limit_sigma": ("standard errors", 'max("limit")'),
            },
            "count(sigma)",
        ),
        *figures(
            "synthetic.audit",
            "self WHERE measure = 'violations'",
            {"synthetic.violations": ("margins exceeded", "sum(value)")},
            "sum(queries * keys)",
        ),
        *_recall("needle_recall", "needle_found", "share of heads that asked"),
        *_recall("needle_recall_group", "needle_found_group", "share of KV heads that were asked"),
        *figures("synthetic.decode", "self", {"synthetic.decode_steps": ("steps", "count(*)")}),
    ),
)
