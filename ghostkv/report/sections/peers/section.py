"""Stage `peers`: every method on one axis of GQA-true bytes, where ours wins and where it loses."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, HeadlineFigure, Prose, Table, figures
from ghostkv.report.names import method
from ghostkv.report.numbers import NONE, counted, factor, percent
from ghostkv.report.results import Results
from ghostkv.report.sections.peers.figures import (
    NOUNS,
    budget_label,
    columns_of,
    fraction,
    frontier_figure,
    method_named,
    metric_of,
    middle_budget,
    ours_against_best,
)
from ghostkv.report.sections.peers.rivals import best_rivals, best_table, losses, rivals_table


def build(results: Results) -> Sequence[Block]:
    """Ours against the best rival, the frontier, every rival, layers, and every setting in numbers."""
    return [
        Prose(_reading(results)),
        frontier_figure(results),
        best_table(results),
        rivals_table(results),
        _choice(results),
        _layers(results),
        _domains(results),
        _settings(results),
        Prose(_honesty(results)),
    ]


def _reading(results: Results) -> str:
    text = (
        "Every method reads the same bytes of a KV head: its index, the keys that are always kept and the keys that its query "
        "heads choose together, as a mean over queries. An index that alone exceeds the budget is *not feasible*; it is never "
        "given more. No method but the oracles sees the exact score of a cold key.\n\n"
    )
    best = best_rivals(results)
    if best.is_empty():
        return (
            text
            + "Ours is not among the selectors, or nothing was feasible beside it, so nothing is compared."
        )
    noun, told = NOUNS[metric_of(results)], []
    for row in best.filter(pl.col("column") == columns_of(results)[-1]).sort("ratio").iter_rows(named=True):
        interval = (
            f" (95 % interval over {counted(row['documents'], 'document')}: {factor(row['times_low'])} to "
            f"{factor(row['times_high'])})" * (row["times_low"] is not None)
        )  # fmt: skip
        told.append(
            f"**At {fraction(row['ratio'])} of the bytes** the best rival is {method(row['selector'])}: its {noun} is "
            f"{factor(row['times'])} ours{interval}."
        )
    return text + " ".join(told) + "\n\n" + losses(results)


def _choice(results: Results) -> Table:
    choice = results.table("peers.choice")
    total = choice.group_by("column", "ratio").len("of")
    data = (
        choice.group_by("column", "ratio", "variant", maintain_order=True)
        .len("heads")
        .join(total, on=["column", "ratio"])
    )
    data = data.with_columns((pl.col("heads") / pl.col("of")).alias("share"), budget_label())
    return Table(
        "peers_choice",
        "The size of our record, as threshold texts chose it for each KV head, column and budget: share of the KV heads.",
        data.sort("column", "ratio", "share", descending=[False, False, True]).with_columns(
            pl.col("column").str.replace("_", " ")
        ),
        {
            "column": Column("Column"),
            "budget": Column("Budget"),
            "variant": Column("Record"),
            "share": Column("KV heads", "percent"),
        },
        sources=("peers.choice",),
    )


def _against(by: str, label: str, format: str) -> dict[str, Column]:
    return {
        by: Column(label, format),
        "ours": Column("Ours", "percent"),
        "peer": Column("best peer", "percent"),
        "who": Column("which is"),
        "oracle": Column("oracle top-k", "percent"),
    }


def _layers(results: Results) -> Table:
    data, metric = ours_against_best(results, "layer"), NOUNS[metric_of(results)]
    lost = data.filter(pl.col("ours") >= pl.col("peer"))["layer"].to_list()
    where = f" (layers {', '.join(map(str, lost))})" if lost else ""
    return Table(
        "peers_layers",
        f"Layer by layer, compensated, at {fraction(middle_budget(results))} of the bytes: mean {metric} over heads and texts. The "
        "best peer is the best of all peers and settings in that layer, in hindsight. A peer is at least as good in "
        f"{len(lost)} of {data.height}{where}.",
        data,
        _against("layer", "Layer", "integer"),
        sources=("peers.peers", "peers.summary"),
    )


def _domains(results: Results) -> Table:
    return Table(
        "peers_domains",
        f"By domain, compensated, at {fraction(middle_budget(results))} of the bytes: does the order depend on the kind of text?",
        ours_against_best(results, "domain"),
        _against("domain", "Domain", "text"),
        sources=("peers.peers", "peers.summary"),
    )


_METRICS = ("output_error_mean", "dropped_mass_mean", "recall_32", "index_ratio", "constant_ratio")


def _settings(results: Results) -> Table:
    ratio = middle_budget(results)
    summary = results.table("peers.summary").filter(pl.col("domain") == "all", pl.col("ratio") == ratio)
    keys = ["selector", "variant", "kind", "column"]
    data = summary.filter(pl.col("metric").is_in(_METRICS)).pivot(
        "metric", index=keys, values="mean", maintain_order=True
    )
    metric = metric_of(results)
    spread = summary.filter(pl.col("metric") == metric).select(
        *keys, pl.struct("low", "high").map_elements(_interval, return_dtype=pl.String).alias("interval"),
        pl.col("head_p95"), pl.col("head_worst"),
    )  # fmt: skip
    data = data.join(spread, on=keys, how="left", maintain_order="left")
    data = data.with_columns(
        pl.lit(None, pl.Float64).alias(name) for name in _METRICS if name not in data.columns
    )
    return Table(
        "peers_settings",
        f"Every setting in every column at {fraction(ratio)} of the bytes: means over held-out documents, the 95 % interval of the "
        f"{NOUNS[metric]} over them, and its spread over heads, which is far larger. Index: part of the full K and V. Constants: what is "
        "fixed before a text is seen (codebooks, frames), over the K and V of one sequence; a batch reads it once. *record*: one "
        "size of ours. A dash: not feasible. The Parquet table has the other budgets.",
        data.with_columns(method_named().alias("who"), pl.col("column").str.replace("_", " ")),
        {
            "who": Column("Method"),
            "variant": Column("Setting"),
            "kind": Column("Kind"),
            "column": Column("Column"),
            "output_error_mean": Column("Output error", "percent"),
            "interval": Column("interval", "figure"),
            "head_p95": Column("p95 head", "percent"),
            "head_worst": Column("worst", "percent"),
            "dropped_mass_mean": Column("Dropped mass", "percent"),
            "recall_32": Column("Recall@32", "percent"),
            "index_ratio": Column("Index", "ratio"),
            "constant_ratio": Column("Constants", "ratio"),
        },
        sources=("peers.summary",),
    )


def _interval(row: dict) -> str:
    return NONE if row["low"] is None else f"{percent(row['low'])} to {percent(row['high'])}"


def _honesty(results: Results) -> str:
    peers = results.table("peers.peers")
    documents, domains = peers["text"].n_unique(), peers["domain"].n_unique()
    text = (
        f"**How sure this is.** The sample is {counted(documents, 'held-out document')} of {counted(domains, 'domain')}: thousands of "
        "queries and hundreds of heads of one document are not independent, so only documents count as repeats. "
    )
    if documents > 1:
        text += (
            "All methods run on the same queries, so documents are compared in pairs, and tests are corrected for the number of "
            "peers. "
        )
    else:
        text += "One document gives no interval at all, so nothing is called beaten. "
    return text + (
        "H2O and SnapKV observe sampled queries and not all, and both may bring back keys that they would have "
        "evicted; every card in `ghostkv/selectors` says what its paper has that is not here."
    )


def _least(column: str, ratio: float) -> str:
    rows = f"column = '{column}' AND abs(ratio - {ratio}) < 0.000001 AND times IS NOT NULL"
    return f"(SELECT * FROM self WHERE {rows} ORDER BY theirs LIMIT 1) AS best"


def _over_ours(name: str, column: str, ratio: float) -> HeadlineFigure:
    return HeadlineFigure(
        name,
        "output error of the best rival / ours, geometric mean over documents",
        "peers.verdicts",
        "SELECT max(times) AS value, coalesce(max(documents), 0) AS n, max(documents) AS texts, max(times_low) AS low, "
        f"max(times_high) AS high FROM {_least(column, ratio)}",
    )


_EVERY = "count(DISTINCT selector)"
_PEERS = "non-oracle peers"
HEADLINE = (
    *figures("peers.verdicts", "self", {"peers.count": (_PEERS, _EVERY)}, _EVERY),
    *figures(
        "peers.verdicts",
        "self",
        {"peers.documents": ("held-out documents", "max(documents)")},
        "max(documents)",
    ),
    *(
        _over_ours(f"peers.best_rival_over_ours_{word}", "compensated", ratio)
        for word, ratio in (("1_32", 1 / 32), ("1_16", 1 / 16), ("1_8", 1 / 8), ("1_4", 1 / 4))
    ),
    _over_ours("peers.record_alone_1_8", "alone", 1 / 8),
    _over_ours("peers.record_alone_1_4", "alone", 1 / 4),
)
CHAPTER = Chapter(
    "peers",
    "What peers do at the same bytes",
    build,
    front=("peers_frontier", "peers_best"),
    needs=("peers.peers", "peers.verdicts", "peers.comparison", "peers.summary", "peers.choice"),
    headline=HEADLINE,
)
