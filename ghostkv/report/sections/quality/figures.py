"""Figures of the chapter on quality: what is lost by byte, by position, by band of layers."""

from __future__ import annotations

import altair as alt
import polars as pl

from ghostkv.report.charts import chosen_mark, line_at, quantity
from ghostkv.report.document import Figure
from ghostkv.report.expressions import in_words
from ghostkv.report.names import family as named
from ghostkv.report.numbers import counted
from ghostkv.report.results import Results
from ghostkv.report.theme import (
    BLUE,
    GREEN,
    INK,
    ORACLE_GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    coloured,
    colours,
    top_legend,
)

_OWN = {
    "ghost": "ghost (ours)",
    "ghost_plain": "ghost, no compensation",
    "ghost_alone": "ghost, a fixed number of keys",
    "calibrated": "calibrated thresholds",
    "certified_mass": "certified mass",
    "oracle_mass": "oracle (exact mass)",
    "identity": "identity",
    "quantised_int": "integers, read whole",
    "quantised_fp8": "fp8, read whole",
    "quantised_fp8_scaled": "fp8 with scales, read whole",
    "quantised_kivi2": "KIVI, read whole",
    **{f"ghost_cache_{cache}": f"ghost over {cache}" for cache in ("fp8", "int8", "int6", "int4", "int3")},
}
_COLOURS = {
    "ghost": BLUE,
    "ghost_plain": SKY,
    "ghost_alone": "#7fb2d9",
    **{
        f"ghost_cache_{cache}": colour
        for cache, colour in (("fp8", "#6a51a3"), ("int8", "#3f007d"), ("int4", "#9e9ac8"))
    },
    "quantised_int": INK,
    "pq": "#8c6d31",
    "certified_mass": GREEN,
    "calibrated": "#44aa99",
    "oracle_mass": ORACLE_GREY,
    "quest": VERMILION,
    "streaming_llm": "#882255",
    "h2o": ORANGE,
    "snapkv": PURPLE,
}
_SPARE = ("#999933", "#6b6ecf", "#1b9e77", "#c51b8a")
_REST, _REST_COLOUR = "other rivals", "#c9d1d8"
# On a logarithmic axis zero has no place.
FLOOR = 1e-9
_BAND = 32


def family_name(family: str) -> str:
    """How a family is printed."""
    return _OWN.get(family) or named(family)


def overall(results: Results) -> pl.DataFrame:
    """The summary over all texts."""
    return results.table("quality.summary").filter(pl.col("domain") == "all")


def role(results: Results, name: str) -> dict:
    """The policy that the headline quotes for something; empty where none was measured."""
    rows = overall(results).filter(pl.col("role") == name)
    return rows.row(0, named=True) if rows.height else {}


def best_rival(results: Results) -> dict:
    """The policy of the byte budget beside the peer that loses least at equal bytes; empty where nothing is compared."""
    rows = results.table("quality.equal_bytes").filter(
        pl.col("role") == "budget", pl.col("against_kind") == "peer", pl.col("domain") == "all"
    )
    rows = rows.drop_nulls("their_kl").sort("their_kl", maintain_order=True)
    return rows.row(0, named=True) if rows.height else {}


def _kl(title: str = "KL (nats a token)") -> alt.Y:
    return quantity("kl", title, alt.Y, type="log", nice=False, format=".0e", tickCount=6)


def _grey(data: pl.DataFrame) -> list[str]:
    """Families of peers and oracles beyond those that colours tell apart: the ones that lose most at their best."""
    others = data.filter(pl.col("kind").is_in(["peer", "oracle"]), ~pl.col("family").is_in(list(_COLOURS)))
    best = (
        others.group_by("family", maintain_order=True).agg(pl.col("kl").min()).sort("kl", maintain_order=True)
    )
    return best["family"].to_list()[len(_SPARE) :]


def bytes_figure(results: Results) -> Figure:
    """KL against GQA-true bytes, a line a family."""
    data = (
        overall(results)
        .filter(pl.col("kind") != "identity")
        .with_columns(
            in_words("family", family_name).alias("label"),
            pl.col("kl", "kl_low", "kl_high").clip(lower_bound=FLOOR),
        )
        .sort("family", "bytes_ratio_gqa")
    )
    data = data.with_columns(
        pl.when(pl.col("family").is_in(_grey(data))).then(pl.lit(_REST)).otherwise("label").alias("label")
    )
    families = [family for family in data["family"].unique(maintain_order=True) if family not in _grey(data)]
    named = {family_name(family): colour for family, colour in colours(families, _COLOURS, _SPARE).items()}
    named |= {_REST: _REST_COLOUR} if _grey(data) else {}
    legend = {"orient": "bottom", "columns": 4, "symbolStrokeWidth": 3, "symbolSize": 140}
    read = "Bytes read over full K and V (GQA-true, whole model)"
    x = quantity("bytes_ratio_gqa", read, zero=False, nice=False, padding=12, format=".2f")
    base = alt.Chart(data).encode(
        x=x,
        color=coloured("label", named, **legend),
    )
    y = _kl("KL to the dense model (nats a token)")
    lines = base.mark_line(strokeWidth=2).encode(y=y, detail="family:N")
    points = base.mark_circle(size=46, opacity=1).encode(y=y)
    bars = base.mark_rule(strokeWidth=1).encode(y=alt.Y("kl_low:Q"), y2="kl_high:Q")
    budget = line_at(x=results.config["quality"]["budget"])
    chosen = data.filter(pl.col("role") == "budget")
    documents = int(data["documents"].max())
    return Figure(
        "quality_bytes",
        "What the model itself loses, by bytes read",
        (budget + lines + bars + points + chosen_mark(chosen, x, y)).properties(width=WIDTH, height=270),
        data.select(
            "policy",
            "family",
            "target",
            "bytes_ratio_gqa",
            "bytes_ratio",
            "kl",
            "kl_low",
            "kl_high",
            "top1",
            "positions",
        ),
        f"Down and left is better. Mean KL from the dense model's next-token distribution over {counted(documents, 'held-out text')}; "
        "bars are 95 % bootstrap intervals over blocks of positions. Bytes are measured, not asked for: index, survivors "
        "united over a group, sinks and hot window of all layers. All heads of a group attend to what the group read. "
        "Slow policies decoded fewer positions (table). The dashed line is the byte budget of the config, and the ring the policy "
        "that keeps to it.",
        sources=("quality.summary",),
    )


def positions_figure(results: Results) -> Figure:
    """KL by position and domain: the headline policy beside the best rival's closest budget."""
    ours = role(results, "budget")
    rows = overall(results).filter(pl.col("family") == best_rival(results).get("against"))
    shown = [ours["policy"]] if ours else overall(results)["policy"].to_list()[:1]
    if ours and rows.height:
        near = rows.with_columns((pl.col("bytes_ratio_gqa") - ours["bytes_ratio_gqa"]).abs().alias("far"))
        shown.append(near.sort("far")["policy"][0])
    table = results.table("quality.positions").filter(pl.col("policy").is_in(shown))
    start = table["position"].min()
    data = (
        table.with_columns((start + (pl.col("position") - start) // _BAND * _BAND).alias("from"))
        .group_by("policy", "domain", "from", maintain_order=True)
        .agg(pl.col("kl").mean(), pl.col("kl").max().alias("kl_max"), pl.len().alias("positions"))
        .with_columns(pl.col("kl").clip(lower_bound=FLOOR))
        .sort("policy", "domain", "from")
    )
    chart = (
        alt.Chart(data)
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=quantity("from", "Position", zero=False, format="d"),
            y=_kl(),
            color=coloured("policy", dict(zip(shown, (BLUE, VERMILION), strict=False))),
        )
        .properties(width=170, height=220)
        .facet(column=alt.Column("domain:N", title=None))
    )
    return Figure(
        "quality_positions",
        "Where in the text, and in which text",
        chart,
        data,
        f"Mean KL over {_BAND} positions each. The first continued position sees a context that was read densely; later "
        "ones see keys that the sparse model itself has written, so errors that pile up would rise to the right.",
        sources=("quality.positions", "quality.summary"),
    )


def ablation_figure(results: Results) -> Figure:
    """KL when only one band of layers eliminates."""
    data = (
        results.table("quality.ablation")
        .with_columns(
            pl.format("{}-{}", "first_layer", "last_layer").alias("layers"),
            pl.col("kl").clip(lower_bound=FLOOR),
        )
        .sort("domain", "first_layer")
    )
    order = data.sort("first_layer")["layers"].unique(maintain_order=True).to_list()
    chart = (
        alt.Chart(data)
        .mark_circle(size=80, opacity=1)
        .encode(
            x=alt.X("layers:N", sort=order, axis=alt.Axis(title="Layers that eliminate", labelAngle=0)),
            y=_kl(),
            color=alt.Color(
                "domain:N", scale=alt.Scale(range=[BLUE, ORANGE, GREEN, PURPLE]), legend=top_legend()
            ),
        )
        .properties(width=WIDTH - 60, height=240)
    )
    return Figure(
        "quality_layers",
        "Where it breaks: one band of layers at a time",
        chart,
        data.select("text", "domain", "policy", "layers", "kl", "top1", "positions", "bytes_ratio_gqa"),
        f"The policy {data['policy'][0]} in one band of layers, all others dense, {data['positions'].max()} positions a text. "
        "KL of single bands need not add up to that of all layers together.",
        sources=("quality.ablation",),
    )
