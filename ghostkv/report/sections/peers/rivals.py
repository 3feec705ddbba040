"""Ours against every rival: the strongest at each budget, and all of them at one."""

from __future__ import annotations

import polars as pl

from ghostkv.report.document import Column, Table
from ghostkv.report.names import method
from ghostkv.report.numbers import NONE, listed
from ghostkv.report.results import Results
from ghostkv.report.sections.peers.figures import (
    COLUMNS,
    NOUNS,
    budget_label,
    columns_of,
    fraction,
    method_named,
    metric_of,
    middle_budget,
)


def losses(results: Results) -> str:
    """Every column and budget at which a peer is better beyond chance, or better at all."""
    verdicts = results.table("peers.verdicts").drop_nulls("difference")
    sure = verdicts.filter(pl.col("lost")).sort("ratio")
    lower = verdicts.filter(pl.col("difference") <= 0, ~pl.col("lost").fill_null(False)).sort("ratio")
    named = [
        f"{method(row['selector'])} at {fraction(row['ratio'])}, {row['column'].replace('_', ' ')}"
        for row in sure.iter_rows(named=True)
    ]
    text = f"Better than ours beyond chance: {listed(named) or 'no peer in any column at any budget'}."
    near = [
        f"{method(row['selector'])} at {fraction(row['ratio'])}, {row['column'].replace('_', ' ')}"
        for row in lower.iter_rows(named=True)
    ]
    return text + (f" Lower in the mean, but not beyond chance: {listed(near)}." if near else "")


def best_rivals(results: Results) -> pl.DataFrame:
    """Of every column and budget the peer of least loss, and how many peers are beaten and not."""
    verdicts = results.table("peers.verdicts")
    keys = ["column", "ratio"]
    counts = verdicts.group_by(keys, maintain_order=True).agg(
        pl.col("beaten").sum().alias("won"), pl.col("difference").count().alias("peers"), pl.col("lost").sum().alias("lose")
    )  # fmt: skip
    best = verdicts.drop_nulls("difference").sort("theirs", maintain_order=True)
    best = best.unique(keys, keep="first", maintain_order=True)
    order = pl.col("column").replace_strict({name: i for i, name in enumerate(COLUMNS)}, return_dtype=pl.Int8)
    return best.join(counts, on=keys, maintain_order="left").sort(order, "ratio", maintain_order=True)


_TIMES = {
    "times": Column("Theirs over ours", "factor"),
    "times_low": Column("from", "factor"),
    "times_high": Column("to", "factor"),
}


def best_table(results: Results) -> Table:
    data = best_rivals(results).with_columns(
        method_named().alias("who"), budget_label(), pl.col("column").str.replace("_", " ")
    )
    return Table(
        "peers_best",
        f"The strongest rival of each column and budget by mean {NOUNS[metric_of(results)]}, at its best setting in hindsight. Theirs over "
        "ours: geometric mean over held-out documents with its 95 % interval (Student, of logs). Beaten and lost to: of the "
        "peers that fit, by paired tests over documents at 5 %, corrected for the number of peers (Holm).",
        data,
        {
            "column": Column("Column"),
            "budget": Column("Budget"),
            "ours": Column("Ours", "percent"),
            "who": Column("Best rival"),
            "variant": Column("Setting"),
            "theirs": Column("theirs", "percent"),
            **_TIMES,
            "won": Column("Beaten", "integer"),
            "lose": Column("lost to", "integer"),
            "peers": Column("of", "integer"),
        },
        sources=("peers.verdicts",),
    )


def rivals_table(results: Results) -> Table:
    ratio = middle_budget(results)
    rows = results.table("peers.verdicts").filter(pl.col("ratio") == ratio)
    data = rows.select("selector").unique(maintain_order=True)
    columns = {"who": Column("Peer")}
    for column in columns_of(results):
        part = rows.filter(pl.col("column") == column).select(
            "selector", pl.col("theirs").alias(f"{column}_theirs"), pl.col("times").alias(f"{column}_times"),
            pl.when(pl.col("beaten")).then(pl.lit("yes")).when(pl.col("lost")).then(pl.lit("lost"))
            .when(pl.col("beaten").is_null()).then(pl.lit(NONE)).otherwise(pl.lit("no")).alias(f"{column}_beaten"),
        )  # fmt: skip
        data = data.join(part, on="selector", how="left", maintain_order="left")
        columns |= {
            f"{column}_theirs": Column(column.replace("_", " ").capitalize(), "percent"),
            f"{column}_times": Column("over ours", "factor"),
            f"{column}_beaten": Column("beaten"),
        }
    return Table(
        "peers_verdicts",
        f"Every peer at {fraction(ratio)} of the bytes: mean {NOUNS[metric_of(results)]} at its best setting. A method that "
        "lacks a column stands there as it is alone. A dash: not feasible, or a single document.",
        data.with_columns(method_named().alias("who")),
        columns,
        sources=("peers.verdicts",),
    )
