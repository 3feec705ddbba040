"""The chart of all methods, and what the chapter on peers asks of its tables."""

from __future__ import annotations

from fractions import Fraction
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

NOUNS = {"output_error_mean": "output error", "dropped_mass_mean": "dropped mass"}
COLUMNS = {
    "alone": "alone, a fixed number of keys a query",
    "one_budget": "with one budget for all heads and queries",
    "compensated": "with that and tail compensation",
}


def method_named(column: str = "selector") -> pl.Expr:
    return pl.col(column).map_elements(method, return_dtype=pl.String)


def fraction(ratio: float) -> str:
    """A budget as a fraction where it is one."""
    found = Fraction(ratio).limit_denominator(64)
    return str(found) if abs(found - ratio) < 1e-9 else f"{ratio:g}"


def budget_label() -> pl.Expr:
    return in_words("ratio", fraction).alias("budget")


def metric_of(results: Results) -> str:
    """What methods are compared by: a capture without values has no output error."""
    found = results.table("peers.summary").drop_nulls("mean")["metric"].unique().to_list()
    return next((name for name in NOUNS if name in found), "output_error_mean")


def columns_of(results: Results) -> list[str]:
    """Columns that our method was measured in; of none where it was not among the selectors."""
    own = results.table("peers.peers").filter(pl.col("kind") == "ours")
    return [name for name in COLUMNS if name in own["column"].unique().to_list()]


def best_settings(results: Results, metric: str) -> pl.DataFrame:
    """Of every method, column and ratio the setting with the lowest mean, in hindsight; of ours the chosen one."""
    summary = results.table("peers.summary").filter(
        pl.col("domain") == "all", pl.col("metric") == metric, pl.col("kind") != "record"
    )
    best = summary.drop_nulls("mean").sort("mean", maintain_order=True)
    keys = ["selector", "kind", "column", "ratio"]
    return best.unique(keys, keep="first", maintain_order=True).sort("selector", "column", "ratio")


def middle_budget(results: Results) -> float:
    """The budget of the detailed tables: 1/8, or the one nearest to it."""
    ratios = results.table("peers.peers")["ratio"].unique().to_list()
    return min(ratios, key=lambda ratio: abs(np.log(ratio / 0.125)))


def ours_against_best(results: Results, by: str) -> pl.DataFrame:
    """Ours, the best peer and the oracle within each layer or domain, compensated, at the middle budget."""
    metric, last = metric_of(results), (columns_of(results) or list(COLUMNS))[-1]
    rows = results.table("peers.peers").filter(pl.col("ratio") == middle_budget(results))
    # What has no such column stands as it is alone.
    has = rows.filter(pl.col("column") == last).select("selector", "variant").unique()
    alone = rows.join(has, on=["selector", "variant"], how="anti")
    rows = pl.concat([rows.filter(pl.col("column") == last), alone])
    found = rows.select(by).unique(maintain_order=True).sort(by)
    means = rows.group_by("selector", "variant", "kind", "column", by, maintain_order=True).agg(
        pl.when(pl.col(metric).null_count() == 0).then(pl.col(metric).cast(pl.Float64).mean()).alias(metric)
    )
    means = means.drop_nulls(metric).sort(metric, maintain_order=True)
    peer = means.filter(pl.col("kind") == "peer").unique(by, keep="first", maintain_order=True)
    mine, oracle = means.filter(pl.col("kind") == "ours"), means.filter(pl.col("selector") == "oracle_topk")
    found = found.join(mine.select(by, pl.col(metric).alias("ours")), on=by, how="left")
    named = peer.select(by, pl.col(metric).alias("peer"), method_named().alias("who"))
    found = found.join(named, on=by, how="left")
    return found.join(oracle.select(by, pl.col(metric).alias("oracle")), on=by, how="left")


_PANEL, _HEIGHT = 190, 360
_DECADES = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
_COLOURS = (VERMILION, ORANGE, GREEN, PURPLE, SKY, "#999933")
# Lines of more methods than there are colours that everyone can tell apart are thin, and of one colour.
_REST, _REST_COLOUR = "other peers", "#c9d1d8"


def _labelled(data: pl.DataFrame) -> pl.DataFrame:
    """Names in the legend: the peers that come nearest to the best anywhere have their own."""
    peers = data.filter(pl.col("kind") == "peer")
    near = peers.with_columns((pl.col("mean") / pl.col("mean").min().over("column", "ratio")).alias("times"))
    order = near.group_by("selector", maintain_order=True).agg(pl.col("times").min()).sort("times")
    shown = set(order["selector"].head(len(_COLOURS)))
    own = (pl.col("kind") != "peer") | pl.col("selector").is_in(shown)
    return data.with_columns(pl.when(own).then(method_named()).otherwise(pl.lit(_REST)).alias("label"))


def _lines_of(kinds: dict[str, str]) -> dict[str, Any]:
    """Encodings of methods by name: ours blue and wide, oracles grey and dashed, each peer in a colour of its own."""
    fixed = {name: {"ours": BLUE, "oracle": ORACLE_GREY}.get(kind) for name, kind in kinds.items()}
    fixed[_REST] = _REST_COLOUR
    legend = {"orient": "bottom", "columns": 5, "symbolStrokeWidth": 3, "symbolSize": 160}
    dashes = [[5, 3] if kind == "oracle" else [1, 0] for kind in kinds.values()]

    def scale(values: list) -> alt.Scale:
        return alt.Scale(domain=list(kinds), range=values)

    return {
        "color": coloured("label", colours(kinds, fixed, _COLOURS), **legend),
        "strokeDash": alt.StrokeDash("label:N", scale=scale(dashes), legend=top_legend(**legend)),
    }


def frontier_figure(results: Results) -> Figure:
    """What is lost against the budget, a line a method and a panel a column."""
    metric = metric_of(results)
    data = _labelled(best_settings(results, metric)).with_columns(
        pl.col("low").clip(lower_bound=1e-4), budget_label()
    )
    kinds = dict(data.sort(pl.col("label") == _REST, descending=True).select("label", "kind").iter_rows())
    drawn = _lines_of(kinds)
    ratios = sorted(data["ratio"].unique().to_list())
    said = " : ".join(
        [*(f"abs(datum.value - {ratio}) < 1e-9 ? '{fraction(ratio)}'" for ratio in ratios), "datum.value"]
    )
    span = logarithmic(ratios[0] * 0.93, ratios[-1] * 1.07)
    x = quantity("ratio", "Budget (GQA-true bytes)", values=ratios, labelExpr=said, **span)
    span = logarithmic(0.8 * data["mean"].min(), min(1.2 * data["mean"].max(), 1.0))
    panels = []
    for column in columns_of(results) or ["alone"]:
        rows = data.filter(pl.col("column") == column)
        title = NOUNS[metric].capitalize() + " (mean)"
        y = quantity("mean", title, alt.Y, percent=True, values=_DECADES, **span)
        base = alt.Chart(rows).encode(x=x, color=drawn["color"])
        # Ours is the widest line, and peers without a colour of their own the thinnest.
        own, rest = pl.col("kind") == "ours", pl.col("label") == _REST
        lines = [
            alt.Chart(rows.filter(some))
            .mark_line(clip=True, strokeWidth=width)
            .encode(x=x, y=y, detail="selector:N", **drawn)
            for some, width in ((rest, 1.0), (~own & ~rest, 1.8), (own, 3.5))
        ]
        points = base.mark_circle(size=22, opacity=1, clip=True).encode(y=y, tooltip=_TOLD)
        # An interval for ours alone: twenty of them would hide each other, and the tables have them all.
        mine = alt.Chart(rows.filter(pl.col("kind") == "ours").drop_nulls("high"))
        bars = mine.mark_rule(strokeWidth=1.5, clip=True).encode(
            x=x, y="low:Q", y2="high:Q", color=drawn["color"]
        )
        panel = alt.layer(*lines, points, bars).properties(width=_PANEL, height=_HEIGHT)
        panels.append(panel.properties(title=column.replace("_", " ")))
    documents = data["documents"].max()
    return Figure(
        "peers_frontier",
        "What is lost at equal bytes, every method in three columns",
        alt.hconcat(*panels),
        data.select(
            "selector", "variant", "kind", "column", "budget", "ratio", "mean", "low", "high", "documents"
        ).with_columns(pl.lit(metric).alias("metric")),
        f"Down is better. Heads and queries of the compared layers, mean over {counted(documents, 'held-out document')}. *Alone*: "
        f"{COLUMNS['alone']}. *One budget*: {COLUMNS['one_budget']}. *Compensated*: {COLUMNS['compensated']}. Of a peer with "
        "several settings the best at each budget is drawn, chosen in hindsight on the held-out texts themselves; of ours the "
        "size that threshold texts chose. A line starts at the smallest budget that its index fits. Oracles (dashed) know the "
        "exact scores. The bar is our 95 % interval over documents. The six peers that come nearest to the best anywhere have a "
        "colour; point at a dot for the name of any.",
        sources=("peers.summary", "peers.peers"),
    )


_TOLD = [
    alt.Tooltip("selector:N", title="Method"), alt.Tooltip("variant:N", title="Setting"),
    alt.Tooltip("budget:N", title="Budget"), alt.Tooltip("mean:Q", title="Mean", format=".4f"),
]  # fmt: skip
