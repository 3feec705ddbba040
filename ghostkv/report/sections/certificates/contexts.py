"""Certificates against context: what a query's position changes."""

from __future__ import annotations

import altair as alt
import polars as pl

from ghostkv.report.charts import logarithmic, quantity
from ghostkv.report.document import Column, Figure, Table, figures
from ghostkv.report.expressions import weighted
from ghostkv.report.results import Results
from ghostkv.report.sections.certificates.figures import TIGHTNESS, mean, promise
from ghostkv.report.theme import BLUE, GREEN, VERMILION, coloured, colours, top_legend
from ghostkv.stages.certificates.schemas import NESTED

CONTEXT = "certificates.context"


def contexts(results: Results) -> Table:
    """Each certificate by band of positions."""
    data = (
        results.table(CONTEXT)
        .filter(pl.col("design") == NESTED)
        .group_by(
            "certificate", "target", "decision", "window", "band_start", "band_stop", maintain_order=True
        )
    )
    data = data.agg(
        *map(weighted, ("cold_keys", "elimination", "oracle_elimination", "bytes_ratio", "bytes_ratio_gqa"))
    ).sort(
        "window",
        pl.col("certificate") != "topk",
        -pl.col("target"),
        pl.col("decision") != "head",
        "band_start",
    )
    tightness = (pl.col("elimination") / pl.col("oracle_elimination")).alias("tightness")
    seen = pl.when(pl.col("window") == 0).then(pl.lit("whole text")).otherwise(pl.format("last {}", "window"))
    return Table(
        "certificates_context_table",
        "The same by context, which is the position of a query, nested storage. Layers that see the whole text and those whose "
        "window slides are apart.",
        data.with_columns(
            promise(),
            tightness,
            pl.format("{}–{}", "band_start", "band_stop").alias("band"),
            seen.alias("sees"),
        ),
        {
            "promise": Column("Certificate"),
            "decision": Column("Decided by"),
            "sees": Column("Layers see"),
            "band": Column("Positions"),
            "cold_keys": Column("Cold keys", "number"),
            "elimination": Column("Elimination", "percent"),
            "tightness": Column("Tightness", "ratio"),
            "bytes_ratio": Column("Bytes per head", "ratio"),
            "bytes_ratio_gqa": Column("GQA-true", "ratio"),
        },
        sources=(CONTEXT,),
    )


def context_figure(results: Results) -> list[Figure]:
    """What a group reads under each certificate by context, layers that see the whole text; nothing of one context alone."""
    rows = results.table(CONTEXT).filter(
        (pl.col("window") == 0) & ((pl.col("decision") == "group") | (pl.col("certificate") == "topk"))
    )
    holds = pl.when(pl.col("design") == NESTED).then(pl.lit("always")).otherwise(pl.lit("but for a chance"))
    data = (
        rows.group_by("certificate", "target", "design", "band_start", "band_stop")
        .agg(map(weighted, ("elimination", "bytes_ratio_gqa")))
        .sort(pl.col("certificate") != "topk", -pl.col("target"), "design", "band_stop")
        .with_columns(promise(), holds.alias("holds"))
    )
    ticks = sorted(set(data["band_stop"]))
    if len(ticks) < 2:
        return []
    x = quantity(
        "band_stop", "Position of the query, at most (tokens)", values=ticks, labelExpr="format(datum.value, ',')", grid=False,
        **logarithmic(),
    )  # fmt: skip
    y = quantity("bytes_ratio_gqa", "Bytes ratio, GQA-true", alt.Y, format="~g", domain=[0, 1])
    names = data["promise"].unique(maintain_order=True).to_list()
    fixed = dict(zip(names, (BLUE, GREEN, VERMILION), strict=False))
    stroke = {"symbolType": "stroke", "symbolOpacity": 1, "symbolStrokeWidth": 3}
    base = alt.Chart(data).encode(
        x=x, y=y, color=coloured("promise", colours(names, fixed), **stroke), detail="holds:N"
    )
    lines = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("holds:N", legend=top_legend(symbolType="stroke"))
    )
    return [
        Figure(
            "certificates_context",
            "What is read under a certificate, against context",
            alt.layer(lines, base.mark_circle(size=45, opacity=1)).properties(width=520, height=280),
            data,
            "Means over heads and queries of layers that see the whole text; nested storage; dropped mass is decided by groups. *But for a "
            "chance* is the randomised certificate.",
            sources=(CONTEXT,),
        )
    ]


# Means over layers that see the whole text.
_WHOLE = f"self WHERE design = '{NESTED}' AND window = 0 AND"
_LONGEST = f"{_WHOLE} band_stop = (SELECT MAX(band_stop) FROM {_WHOLE} band_stop > 0)"
# The context that runs of all models have, so that these figures bear the model's name and can be laid side by side.
_COMMON = 4096
_MEASURES = {
    "elimination": ("share", mean("elimination")),
    "bytes_ratio_gqa": ("ratio", mean("bytes_ratio_gqa")),
    "tightness": ("ratio", TIGHTNESS),
}
_PROMISES = {"topk": "certificate = 'topk'"} | {
    f"{name}{who}": f"certificate = 'mass' AND target > {0.99 * share} AND target < {1.01 * share} AND decision = '{decision}'"
    for name, share in (("mass_5pct", 0.05), ("mass_1pct", 0.01))
    for who, decision in (("", "head"), (".group", "group"))
}
_AT_LONGEST = {"topk": "topk", "mass_5pct": "mass_5pct.group", "mass_1pct": "mass_1pct.group"}
CONTEXT_HEADLINE = (
    *figures(
        CONTEXT, f"{_WHOLE} certificate = 'topk'", {"context.longest_tokens": ("tokens", "MAX(band_stop)")}
    ),
    *(
        figure
        for name, promised in _AT_LONGEST.items()
        for figure in figures(
            CONTEXT,
            f"{_LONGEST} AND {_PROMISES[promised]}",
            {
                f"context.{name}_{what.replace('_ratio', '')}_at_longest": found
                for what, found in _MEASURES.items()
            },
            by_text=CONTEXT,
        )
    ),
    *(
        figure
        for promised, rows in _PROMISES.items()
        for figure in figures(
            CONTEXT,
            f"{_WHOLE} band_stop = {_COMMON} AND {rows}",
            {f"{{model}}.certificates.{promised}.{what}": found for what, found in _MEASURES.items()},
            by_text=CONTEXT,
        )
    ),
)
