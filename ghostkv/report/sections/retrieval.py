"""Stage `retrieval`: does the model still find what the context holds, task by task and depth by depth."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Figure, HeadlineFigure, Prose, Table, figures
from ghostkv.report.numbers import counted, listed, percent, ratio
from ghostkv.report.results import Results
from ghostkv.report.theme import ON_BRIGHT, ON_DARK, SEQUENTIAL

DENSE, POOLED, BUDGET = "dense", "single_needle", 0.25
# Questions that a policy must have answered to be quoted before one that spends less.
ENOUGH = 50
_CELL = 34


def build(results: Results) -> Sequence[Block]:
    """What was asked, heat maps of single needles, all tasks, and where it breaks."""
    blocks: list[Block] = [Prose(_reading(results))]
    if results.table("retrieval.cells").height:
        blocks.append(_heat_map(results))
    return [*blocks, _tasks(results), _dense(results), Prose(_breaks(results))]


def _reading(results: Results) -> str:
    summary = results.table("retrieval.summary")
    sparse = summary.filter(pl.col("policy") != DENSE)["prefill"].to_list()
    protocol = (
        "everything is read under the policy, the context too"
        if "sparse" in sparse
        else "the context is read densely, question and answer are read and decoded under the policy"
    )
    text = (
        f"Tasks are RULER's, built from its definitions; {protocol}. {{}}\n\nEvery policy answers the same questions on the same "
        "cached context, greedily, with the answer's beginning given. Relative accuracy is accuracy over that of the "
        "dense model on the same questions. Bytes are those of question and answer, GQA-true, all layers. "
        "Questions on one haystack are not wholly independent: it has a needle a depth, and the questions share its text."
    )
    pooled = summary.filter((pl.col("task") == POOLED) & (pl.col("policy") != DENSE))
    fits = pooled.filter((pl.col("kind") == "ours") & (pl.col("bytes_ratio_gqa") <= BUDGET))
    if fits.is_empty():
        return text.format(
            f"No policy of ours answered single needles at bytes ratio ≤ {BUDGET}, or none is measurable."
        )
    best = fits.sort(pl.min_horizontal("n", pl.lit(ENOUGH)), "bytes_ratio_gqa").row(-1, named=True)
    return text.format(
        f"**Single needles up to 4k tokens:** at bytes ratio {ratio(best['bytes_ratio_gqa'])}, {best['policy']} answers "
        f"{best['right']} of {best['n']} questions right; relative accuracy {percent(best['relative_accuracy'])} "
        f"(95 % interval {percent(best['relative_low'])} to {percent(best['relative_high'])}, over haystacks)."
    )


def _squares(results: Results) -> pl.DataFrame:
    """A row a square: task, length, depth and policy, of the task with most lengths; the others stand in the table."""
    cells = results.table("retrieval.cells")
    data = (
        cells.group_by("task", "length", "depth", "policy", "kind", maintain_order=True)
        .agg(pl.col("n", "right").sum(), pl.col("low", "high", "accuracy", "measurable").first())
        .with_columns(
            pl.format("{}/{}", "right", "n").alias("count"),
            (pl.col("depth") * 100).round(0).cast(pl.Int32).cast(pl.String).alias("percent"),
        )
    )
    tasks = data.group_by("task").agg(pl.col("length").n_unique(), pl.len()).sort("length", "len", "task")
    return data.filter(pl.col("task") == tasks["task"][-1])


def _heat_map(results: Results) -> Figure:
    data = _squares(results)
    depths = [f"{round(100 * depth)}" for depth in sorted(data["depth"].unique())]
    base = alt.Chart(data).encode(
        x=alt.X("length:O", axis=alt.Axis(title="Context (tokens)", labelAngle=0, grid=False)),
        y=alt.Y("percent:O", sort=depths, axis=alt.Axis(title="Depth (%)", grid=False)),
    )
    legend = {"orient": "bottom", "format": "%", "gradientLength": 200, "values": [0, 0.5, 1]}
    scale = alt.Scale(scheme=SEQUENTIAL, domain=[0, 1])
    colour = alt.Color("accuracy:Q", scale=scale, legend=alt.Legend(title="Accuracy", **legend))
    readable = alt.condition("datum.accuracy > 0.6", alt.value(ON_BRIGHT), alt.value(ON_DARK))
    chart = (
        base.mark_rect(stroke="white", strokeWidth=1).encode(color=colour)
        + base.mark_text(fontSize=9).encode(text="count:N", color=readable)
    ).properties(width=max(_CELL * data["length"].n_unique(), 110), height=26 * len(depths))
    policies = data["policy"].unique(maintain_order=True).to_list()
    chart = chart.facet(alt.Facet("policy:N", title=None, sort=policies), columns=4)
    widest = data.sort("n").row(0, named=True)
    return Figure(
        "retrieval_depths",
        "Single needles by depth and length",
        chart,
        data.select(
            "task", "length", "depth", "policy", "kind", "right", "n", "accuracy", "low", "high", "measurable"
        ),
        f"Task {data['task'][0]}. A square says how many questions were answered right, of how many: its colour alone would promise "
        f"more than they allow. The least-asked cell ({widest['right']} of {widest['n']}) has a 95 % Wilson interval of "
        f"{percent(widest['low'])} to {percent(widest['high'])}. An empty square was not asked. Policies differ in bytes; "
        "the table has them.",
        sources=("retrieval.cells",),
    )


def _tasks(results: Results) -> Table:
    data = (
        results.table("retrieval.summary")
        .filter((pl.col("policy") != DENSE) & pl.col("measurable"))
        .sort(
            pl.col("task") == POOLED, "task", "length", descending=[True, False, False], maintain_order=True
        )
        .with_columns(
            pl.when(pl.col("length") == 0)
            .then(pl.lit("to 4,096"))
            .otherwise(pl.col("length").cast(pl.String))
            .alias("tokens")
        )
    )
    return Table(
        "retrieval_tasks",
        "Every measurable task. The interval is conservative and paired: what is kept of the dense model's right answers, "
        "with its Clopper-Pearson interval, and what is gained. A dash: partial scores, which no count describes. Lost and won: "
        "questions that only the dense model, only the policy answers right; p of McNemar's exact test. Compare "
        "policies at equal GQA-true bytes only.",
        data,
        {
            "task": Column("Task"),
            "tokens": Column("Tokens", "figure"),
            "policy": Column("Policy"),
            "kind": Column("Kind"),
            "n": Column("n", "integer"),
            "dense_accuracy": Column("Dense", "percent"),
            "accuracy": Column("Accuracy", "percent"),
            "relative_accuracy": Column("Relative", "percent"),
            "relative_low": Column("low", "percent"),
            "relative_high": Column("high", "percent"),
            "lost": Column("Lost", "integer"),
            "won": Column("Won", "integer"),
            "mcnemar_p": Column("p", "number"),
            "bytes_ratio_gqa": Column("Bytes", "ratio"),
            "certificate": Column("Certificate"),
        },
        sources=("retrieval.summary",),
    )


def _dense(results: Results) -> Table:
    data = results.table("retrieval.summary").filter((pl.col("policy") == DENSE) & (pl.col("length") > 0))
    return Table(
        "retrieval_dense",
        "What the dense model can do at all. Under "
        f"{percent(results.config['retrieval']['measurable'])} a task is *not measurable*: it says nothing of elimination, "
        "is averaged nowhere, and the policies stopped answering it when that was certain. Full scores are counted in "
        "the interval, in which questions on one context are no independent ones, and partial scores in the accuracy.",
        data,
        {
            "task": Column("Task"),
            "length": Column("Tokens", "integer"),
            "contexts": Column("Contexts", "integer"),
            "n": Column("Questions", "integer"),
            "accuracy": Column("Accuracy", "percent"),
            "right": Column("Full score", "integer"),
            "clustered_low": Column("low", "percent"),
            "clustered_high": Column("high", "percent"),
            "measurable": Column("Measurable", "yes_no"),
        },
        sources=("retrieval.summary",),
    )


def _breaks(results: Results) -> str:
    summary = results.table("retrieval.summary")
    dense = summary.filter((pl.col("policy") == DENSE) & (pl.col("length") > 0))
    out = dense.filter(~pl.col("measurable"))
    text = "**Where it breaks.** "
    if out.height:
        names = [f"{row['task']} at {row['length']:,}" for row in out.iter_rows(named=True)]
        text += f"Not measurable with this model: {listed(names)}. "
    lost = summary.filter((pl.col("kind") == "ours") & (pl.col("lost") > 0) & (pl.col("length") > 0))
    for row in lost.iter_rows(named=True):
        text += (
            f"{row['policy']} loses {row['lost']} of {counted(row['n'], 'question')} of {row['task']} at "
            f"{row['length']:,} tokens and wins {row['won']}. "
        )
    if lost.is_empty():
        text += "No policy of ours loses a question that the dense model answers, on any measurable task. "
    return text + (
        "Samples are small: no loss in n questions still allows a true loss of about 3/n. The haystacks are essays and "
        "noise in English, and one model answers."
    )


# Ours with most bytes within the budget, among those that answered enough questions (or else most): chosen by bytes, not
# by what it answers. Some questions more do not count: else a cheaper policy with one task more would stand for it.
_BEST = (
    f"(SELECT * FROM self WHERE task = '{POOLED}' AND kind = 'ours' AND bytes_ratio_gqa <= {BUDGET} "
    f"ORDER BY least(n, {ENOUGH}) DESC, bytes_ratio_gqa DESC LIMIT 1) AS best"
)
_SHARE, _AT = "accuracy over the dense model's", "retrieval.single_needle_at_025"
HEADLINE = (
    # The texts behind them are haystacks.
    *(
        HeadlineFigure(
            name,
            unit,
            "retrieval.summary",
            f"SELECT avg({column}) AS value, coalesce(sum(n), 0) AS n, max(contexts) AS texts{ends} FROM {rows}",
        )
        for name, unit, column, ends, rows in (
            (
                f"{_AT}.relative_accuracy",
                _SHARE,
                "relative_accuracy",
                ", avg(relative_low) AS low, avg(relative_high) AS high",
                _BEST,
            ),
            (f"{_AT}.bytes_ratio_gqa", "bytes over full fp16 K and V", "bytes_ratio_gqa", "", _BEST),
            (
                "retrieval.single_needle.dense_accuracy",
                "share of questions",
                "accuracy",
                ", avg(clustered_low) AS low, avg(clustered_high) AS high",
                f"self WHERE task = '{POOLED}' AND policy = '{DENSE}'",
            ),
        )
    ),
    *figures(
        "retrieval.summary",
        f"self WHERE policy = '{DENSE}' AND length > 0",
        {"retrieval.measurable_tasks": ("tasks at a length", "sum(CAST(measurable AS INT))")},
    ),
)
CHAPTER = Chapter(
    "retrieval",
    "What the model still finds",
    build,
    front=("retrieval_depths",),
    needs=("retrieval.summary", "retrieval.cells"),
    headline=HEADLINE,
)
