"""What the chapter on peers asks of its tables, and the names that it prints."""

from __future__ import annotations

import numpy as np
import polars as pl

from ghostkv.report.expressions import in_words
from ghostkv.report.numbers import NONE, percent
from ghostkv.report.results import Results, words

METRICS = {"output_error_mean": "Output error (mean)", "dropped_mass_mean": "Dropped mass (mean)"}
NOUNS = {"output_error_mean": "output error", "dropped_mass_mean": "dropped mass"}
NAMES = {
    "oracle_topk": "oracle top-k",
    "oracle_topp": "oracle top-p",
    "streaming_llm": "StreamingLLM",
    "h2o": "H2O",
    "snapkv": "SnapKV",
    "quest": "Quest",
    "loki": "Loki",
    "sparq": "SparQ",
    "double_sparsity": "Double Sparsity",
    "pq": "PQ",
    "magicpig": "MagicPIG",
    "token_picker": "Token-Picker",
    "ghost": "ghost (ours)",
}


def method(selector: str) -> str:
    return NAMES.get(selector, words(selector))


def method_named(column: str = "selector") -> pl.Expr:
    return pl.col(column).map_elements(method, return_dtype=pl.String)


def fraction(ratio: float) -> str:
    """A budget as a fraction where it is one."""
    inverse = 1 / ratio
    return f"1/{inverse:.0f}" if abs(inverse - round(inverse)) < 1e-6 else f"{ratio:g}"


def budget_label() -> pl.Expr:
    return in_words("ratio", fraction).alias("budget")


def shown_metrics(results: Results) -> list[str]:
    """Metrics that exist: a capture without values has no output error."""
    found = results.table("peers.summary").drop_nulls("mean")["metric"].unique().to_list()
    return [metric for metric in METRICS if metric in found]


def our_setting(results: Results) -> dict:
    """The selector that peers are held against: the first of our own."""
    own = results.table("peers.peers").filter(pl.col("kind") == "ours")
    return own.select("selector", "variant").row(0, named=True) if own.height else {}


def small_budgets(results: Results) -> str:
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


def why_not_beaten(results: Results, selector: str, ratio: float) -> str:
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


def best_settings(results: Results, metric: str) -> pl.DataFrame:
    """Of every selector and ratio the variant with the lowest mean (hindsight, which favours peers)."""
    summary = results.table("peers.summary").filter(
        pl.col("domain") == "all", pl.col("metric") == metric, pl.col("kind") != "extended"
    )
    # Ours is the one configured design, not the best of several.
    own = pl.lit(True)
    if ours := our_setting(results):
        own = (pl.col("kind") != "ours") | (
            (pl.col("selector") == ours["selector"]) & (pl.col("variant") == ours["variant"])
        )
    best = summary.drop_nulls("mean").filter(own).sort("mean", maintain_order=True)
    return best.unique(["selector", "ratio"], keep="first", maintain_order=True).sort("selector", "ratio")


def middle_budget(results: Results) -> float:
    """The budget of the detailed tables: 1/8, or the one nearest to it."""
    ratios = results.table("peers.peers")["ratio"].unique().to_list()
    return min(ratios, key=lambda ratio: abs(np.log(ratio / 0.125)))


def ours_against_best(results: Results, by: str) -> pl.DataFrame:
    """Ours, the best peer and the oracle within each layer or domain, at the middle budget."""
    ours = our_setting(results)
    rows = results.table("peers.peers").filter(pl.col("ratio") == middle_budget(results))
    found = rows.select(by).unique(maintain_order=True).sort(by)
    for metric in shown_metrics(results):
        means = rows.group_by("selector", "variant", "kind", by, maintain_order=True).agg(
            pl.when(pl.col(metric).null_count() == 0)
            .then(pl.col(metric).cast(pl.Float64).mean())
            .alias(metric)
        )
        means = means.drop_nulls(metric).sort(metric, maintain_order=True)
        peer = means.filter(pl.col("kind") == "peer").unique(by, keep="first", maintain_order=True)
        mine = means.filter(*[pl.col(name) == ours[name] for name in ours]) if ours else means.clear()
        oracle = means.filter(pl.col("selector") == "oracle_topk")
        found = found.join(mine.select(by, pl.col(metric).alias(f"{metric}_ours")), on=by, how="left")
        found = found.join(
            peer.select(by, pl.col(metric).alias(f"{metric}_peer"), method_named().alias(f"{metric}_who")),
            on=by,
            how="left",
        )
        found = found.join(oracle.select(by, pl.col(metric).alias(f"{metric}_oracle")), on=by, how="left")
    return found


def with_interval(row: dict) -> str:
    if row["mean"] is None:
        return NONE
    mean = percent(row["mean"])
    return mean if row["low"] is None else f"{mean} ({100 * row['low']:.1f}–{100 * row['high']:.1f})"
