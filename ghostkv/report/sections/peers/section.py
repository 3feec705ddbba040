"""Stage `peers`: every method on one axis of bytes, where ours wins and where it loses."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, HeadlineFigure, Prose, Table, figures
from ghostkv.report.names import method
from ghostkv.report.numbers import NONE, counted, listed, percent
from ghostkv.report.results import Results
from ghostkv.report.sections.peers.figures import (
    METRICS,
    NOUNS,
    budget_label,
    fraction,
    frontier_figure,
    method_named,
    middle_budget,
    our_setting,
    ours_against_best,
    shown_metrics,
)


def build(results: Results) -> Sequence[Block]:
    """Verdicts, the frontier, layers, and every variant in numbers."""
    return [
        Prose(_reading(results)),
        frontier_figure(results),
        _verdicts(results),
        _layers(results),
        _domains(results),
        _variants(results),
        Prose(_honesty(results)),
    ]


def _reading(results: Results) -> str:
    verdicts, ours, kept = results.table("peers.verdicts"), our_setting(results), ""
    text = (
        "Every method reads the same bytes: its index, the keys that are always kept and the keys it chooses, as a "
        "mean over the queries of a head and text. Where an index alone exceeds the budget the method is *not "
        "feasible* there; it is never given more. No method but the oracles sees the exact score of a cold key. "
    )
    if not ours:
        return text + "None of the selectors is ours, so nothing is compared."
    for ratio in sorted({0.125, 0.25} & set(verdicts["ratio"].to_list())):
        rows = verdicts.filter(pl.col("ratio") == ratio)
        known = rows.drop_nulls("beaten")
        if known.is_empty():
            text += f"**At {fraction(ratio)}** no interval exists (one document, or nothing to compare). "
            continue
        text += (
            f"**At {fraction(ratio)} of the bytes**, ours ({ours['variant']}) has a lower output error and a lower "
            f"dropped mass than {known['beaten'].sum()} of {counted(rows.height, 'peer')}, intervals not overlapping; "
            f"with intervals of paired differences than {known['beaten_paired'].sum()}; by means alone than "
            f"{known['lower'].sum()}. "
        )
        lost = known.filter(~pl.col("beaten"))["selector"].to_list()
        if lost:
            why = listed([_why_not_beaten(results, name, ratio) for name in lost])
            kept += f"Not beaten at {fraction(ratio)}: {why}. "
    return f"{text}\n\n{kept}{_small_budgets(results)}"


def _small_budgets(results: Results) -> str:
    """Below 1/8 an index weighs: which setting of ours is best there, and which peer."""
    text = ""
    summary = results.table("peers.summary").filter(pl.col("domain") == "all", pl.col("ratio") < 0.1)
    for metric in shown_metrics(results)[:1]:
        rows = summary.filter(pl.col("metric") == metric).drop_nulls("mean").sort("mean", maintain_order=True)
        for ratio in sorted(rows["ratio"].unique().to_list(), reverse=True):
            at = {
                kind: rows.filter(pl.col("ratio") == ratio, pl.col("kind") == kind)
                for kind in ("ours", "peer")
            }
            if at["peer"].is_empty():
                continue
            peer = at["peer"].row(0, named=True)
            setting = f" ({peer['variant']})" if peer["variant"] else ""
            told = f"best peer {method(peer['selector'])}{setting}, {NOUNS[metric]} {percent(peer['mean'])}"
            if at["ours"].is_empty():
                text += f"**At {fraction(ratio)}** none of our records fits; {told}. "
                continue
            mine = at["ours"].row(0, named=True)
            text += (
                f"**At {fraction(ratio)}** an index takes a large part of the budget: our best setting is "
                f"{mine['variant']} with {percent(mine['mean'])}; {told}. "
            )
    return text


def _why_not_beaten(results: Results, selector: str, ratio: float) -> str:
    """What keeps a peer from being beaten: the metrics on which it is better, or too close."""
    rows = results.table("peers.comparison").filter(
        pl.col("selector") == selector, pl.col("ratio") == ratio, pl.col("kind") == "peer"
    )
    better = rows.filter(pl.col("difference") <= 0)["metric"].unique(maintain_order=True).to_list()
    close = (
        rows.filter(pl.col("difference") > 0, ~pl.col("separate"))["metric"]
        .unique(maintain_order=True)
        .to_list()
    )
    parts = [f"lower {NOUNS[metric]} than ours" for metric in better]
    parts += [f"intervals of {NOUNS[metric]} overlap" for metric in close if metric not in better]
    return f"{method(selector)} ({'; '.join(parts)})"


def _with_interval(row: dict) -> str:
    if row["mean"] is None:
        return NONE
    mean = percent(row["mean"])
    return mean if row["low"] is None else f"{mean} ({100 * row['low']:.1f}–{100 * row['high']:.1f})"


def _verdicts(results: Results) -> Table:
    data = (
        results.table("peers.verdicts")
        .filter(pl.col("ratio") >= 0.1)
        .with_columns(method_named().alias("peer"), budget_label())
        .sort("ratio", "output_error", nulls_last=True)
    )
    return Table(
        "peers_verdicts",
        "Each peer at its best setting against ours. Beaten: for every setting of the peer, ours has both a lower output "
        "error and a lower dropped mass and the 95 % intervals over documents do not overlap. Paired: the interval of "
        "the difference on the same documents lies above zero, for both. A dash: not feasible, or no interval.",
        data,
        {
            "budget": Column("Budget"),
            "peer": Column("Peer"),
            "output_error": Column("Output error", "percent"),
            "ours_output_error": Column("ours", "percent"),
            "dropped_mass": Column("Dropped mass", "percent"),
            "ours_dropped_mass": Column("ours", "percent"),
            "beaten": Column("Beaten", "yes_no"),
            "beaten_paired": Column("Paired", "yes_no"),
            "lower": Column("Lower means", "yes_no"),
        },
        sources=("peers.verdicts",),
    )


def _columns(results: Results, by: str, label: str, format: str) -> dict[str, Column]:
    columns = {by: Column(label, format)}
    for metric in shown_metrics(results):
        columns |= {
            f"{metric}_ours": Column(f"{NOUNS[metric].capitalize()}, ours", "percent"),
            f"{metric}_peer": Column("best peer", "percent"),
            f"{metric}_who": Column("which is"),
            f"{metric}_oracle": Column("oracle top-k", "percent"),
        }
    return columns


def _layers(results: Results) -> Table:
    data = ours_against_best(results, "layer")
    lost = {
        metric: data.filter(pl.col(f"{metric}_ours") >= pl.col(f"{metric}_peer"))["layer"].to_list()
        for metric in shown_metrics(results)
    }
    where = "; ".join(
        f"in {NOUNS[metric]} a peer is at least as good in {len(layers)} of {data.height}"
        + (f" (layers {', '.join(map(str, layers))})" if layers else "")
        for metric, layers in lost.items()
    )
    return Table(
        "peers_layers",
        f"Layer by layer at {fraction(middle_budget(results))} of the bytes, mean over heads and held-out texts. The best peer "
        f"is the best of all peers and settings in that layer, in hindsight. Where we lose: {where}.",
        data,
        _columns(results, "layer", "Layer", "integer"),
        sources=("peers.peers", "peers.summary"),
    )


def _domains(results: Results) -> Table:
    return Table(
        "peers_domains",
        f"By domain at {fraction(middle_budget(results))} of the bytes: does the order of methods depend on the kind of text?",
        ours_against_best(results, "domain"),
        _columns(results, "domain", "Domain", "text"),
        sources=("peers.peers", "peers.summary"),
    )


def _variants(results: Results) -> Table:
    summary = results.table("peers.summary").filter(pl.col("domain") == "all")
    keys = ["ratio", "selector", "variant", "kind"]
    data = summary.pivot("metric", index=[*keys, "feasible_share"], values="mean", maintain_order=True)
    for metric in METRICS:
        rows = summary.filter(pl.col("metric") == metric)
        span = rows.select(
            *keys,
            pl.struct("mean", "low", "high")
            .map_elements(_with_interval, return_dtype=pl.String)
            .alias(f"{metric}_span"),
            pl.col("head_p95").alias(f"{metric}_head"),
        )
        data = data.join(span, on=keys, how="left", maintain_order="left")
    data = data.sort("ratio", maintain_order=True).with_columns(method_named().alias("who"), budget_label())
    return Table(
        "peers_variants",
        "Every setting at every budget; mean and 95 % Student interval over held-out documents, and the 95th percentile "
        "of heads beside it: heads differ far more than documents do. *Extended*: a peer with our tail compensation, which its "
        "paper does not have; it shows how much of our lead is the compensation and how much the record. p99 is over "
        "all queries and heads of a layer, mean over layers. A dash: not feasible.",
        data,
        {
            "budget": Column("Budget"),
            "who": Column("Method"),
            "variant": Column("Setting"),
            "kind": Column("Kind"),
            "output_error_mean_span": Column("Output error", "figure"),
            "output_error_mean_head": Column("p95 head", "percent"),
            "output_error_p99": Column("p99", "percent"),
            "dropped_mass_mean_span": Column("Dropped mass", "figure"),
            "dropped_mass_mean_head": Column("p95 head", "percent"),
            "recall_32": Column("Recall@32", "percent"),
            "fer": Column("FER", "percent"),
            "bytes_ratio": Column("Bytes", "ratio"),
            "bytes_ratio_gqa": Column("GQA-true", "ratio"),
            "index_ratio": Column("of it index", "ratio"),
        },
        sources=("peers.summary",),
    )


def _honesty(results: Results) -> str:
    documents = results.table("peers.peers")["text"].n_unique()
    text = (
        f"**How sure this is.** The sample is {counted(documents, 'held-out document')}: thousands of queries and "
        "hundreds of heads of one document are not independent, so only documents count as repeats. "
    )
    if documents > 1:
        text += (
            f"With {documents} the Student quantile is large, and because they come from different domains an interval "
            "of each method's own mean holds the difference between domains as well. All methods run on the same "
            "documents, so the paired interval answers the question 'is ours lower on a document like these' and the "
            "unpaired one is the stricter test; both are shown and the headline counts the stricter. More texts a "
            "domain (`texts.per_role.held_out`) narrow both. "
        )
    else:
        text += "One document gives no interval at all, so nothing is called beaten. "
    return text + (
        "H2O and SnapKV observe sampled queries and not all, and both may bring back keys that they would have "
        "evicted; every card in `ghostkv/selectors` says what its paper has that is not here."
    )


_PEERS = "non-oracle peers"


def _counted(name: str, column: str, ratio: float) -> tuple[HeadlineFigure, ...]:
    count = f"CASE WHEN count({column}) > 0 THEN sum(CAST({column} AS INT)) ELSE NULL END"
    rows = f"self WHERE abs(ratio - {ratio}) < 0.000001"
    return figures("peers.verdicts", rows, {f"peers.{name}": (_PEERS, count)}, f"count({column})")


_EVERY = "count(DISTINCT selector)"
HEADLINE = (
    *figures("peers.verdicts", "self", {"peers.count": (_PEERS, _EVERY)}, _EVERY),
    *_counted("beaten_at_1_8", "beaten", 0.125),
    *_counted("beaten_at_1_4", "beaten", 0.25),
    *_counted("beaten_paired_at_1_8", "beaten_paired", 0.125),
    *_counted("beaten_paired_at_1_4", "beaten_paired", 0.25),
)
CHAPTER = Chapter(
    "peers",
    "What peers do at the same bytes",
    build,
    front=("peers_frontier", "peers_verdicts"),
    needs=("peers.peers", "peers.verdicts", "peers.comparison", "peers.summary"),
    headline=HEADLINE,
)
