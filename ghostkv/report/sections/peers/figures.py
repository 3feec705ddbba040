"""The chart of all methods, and what the chapter on peers asks of its tables."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import polars as pl

from ghostkv.report.charts import logarithmic, quantity
from ghostkv.report.document import Figure
from ghostkv.report.expressions import in_words
from ghostkv.report.names import method
from ghostkv.report.numbers import counted
from ghostkv.report.results import Results
from ghostkv.report.theme import (
    BLUE,
    GREEN,
    ORACLE_GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    coloured,
    colours,
    top_legend,
)

METRICS = {"output_error_mean": "Output error (mean)", "dropped_mass_mean": "Dropped mass (mean)"}
NOUNS = {"output_error_mean": "output error", "dropped_mass_mean": "dropped mass"}


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


_PANEL, _HEIGHT = 232, 360
_DECADES = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)


_BUDGET_LABEL = (
    "abs(1 / datum.value - round(1 / datum.value)) < 1e-6 ? '1/' + round(1 / datum.value) : datum.value"
)


_COLOURS = (VERMILION, ORANGE, "#999933", GREEN, "#44aa99", SKY, PURPLE, "#882255", "#6b6ecf", "#8c6d31")


def _lines_of(kinds: dict[str, str]) -> dict[str, Any]:
    """Encodings of methods by name: ours blue and wide, oracles grey and dashed, each peer in a colour of its own."""
    fixed = {name: {"ours": BLUE, "oracle": ORACLE_GREY}.get(kind) for name, kind in kinds.items()}
    legend = {"orient": "bottom", "columns": 5, "symbolStrokeWidth": 3, "symbolSize": 160}
    dashes = [[5, 3] if kind == "oracle" else [1, 0] for kind in kinds.values()]
    widths = [3.5 if kind == "ours" else 1.5 for kind in kinds.values()]

    def scale(values: list) -> alt.Scale:
        return alt.Scale(domain=list(kinds), range=values)

    return {
        "color": coloured("label", colours(kinds, fixed, _COLOURS), **legend),
        "strokeDash": alt.StrokeDash("label:N", scale=scale(dashes), legend=top_legend(**legend)),
        "size": alt.Size("label:N", scale=scale(widths), legend=None),
    }


def frontier_figure(results: Results) -> Figure:
    """What is lost against the budget, a line a method and a panel a metric."""
    shown = shown_metrics(results)
    data = pl.concat([best_settings(results, metric) for metric in shown])
    data = data.with_columns(
        method_named().alias("label"), pl.col("low").clip(lower_bound=1e-4), budget_label()
    )
    found = dict(data.select("label", "kind").unique().iter_rows())
    order = map(method, results.table("peers.summary")["selector"].unique(maintain_order=True))
    drawn = _lines_of({name: found[name] for name in order if name in found})
    ratios = sorted(data["ratio"].unique().to_list())
    span = logarithmic(ratios[0] * 0.93, ratios[-1] * 1.07)
    x = quantity("ratio", "Budget (bytes ratio per head)", values=ratios, labelExpr=_BUDGET_LABEL, **span)
    panels = []
    for metric in shown:
        rows = data.filter(pl.col("metric") == metric)
        span = logarithmic(0.8 * rows["mean"].min(), 1.2 * rows["mean"].max())
        y = quantity("mean", METRICS[metric], alt.Y, percent=True, values=_DECADES, **span)
        base = alt.Chart(rows).encode(x=x, color=drawn["color"])
        lines = base.mark_line(clip=True).encode(y=y, detail="selector:N", **drawn)
        points = base.mark_circle(size=26, opacity=1, clip=True).encode(y=y)
        # An interval for ours alone: thirteen of them would hide each other, and the table has them all.
        mine = alt.Chart(rows.filter(pl.col("kind") == "ours").drop_nulls("high"))
        bars = mine.mark_rule(strokeWidth=1.5, clip=True).encode(
            x=x, y="low:Q", y2="high:Q", color=drawn["color"]
        )
        panels.append((lines + points + bars).properties(width=_PANEL, height=_HEIGHT))
    documents = data["documents"].max()
    return Figure(
        "peers_frontier",
        "What is lost at equal bytes, every method",
        alt.hconcat(*panels),
        data.select(
            "selector", "variant", "kind", "budget", "ratio", "metric", "mean", "low", "high", "documents"
        ),
        f"Down is better. All layers, heads and queries, mean over {counted(documents, 'held-out document')}. Of a peer "
        "with several settings the best at each budget is drawn, chosen in hindsight on the held-out texts themselves; "
        "ours is one setting throughout. A line starts at the smallest budget that its index fits. Oracles (dashed) "
        "know the exact scores. Ours may lie below the oracles in output error, because they drop the tail and ours "
        "compensates it; dropped mass compares the choice of keys alone. The bar is our 95 % interval over documents.",
        sources=("peers.summary", "peers.peers"),
    )
