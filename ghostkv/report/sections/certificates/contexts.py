"""Certificates against context: what a query's position changes."""

from __future__ import annotations

import polars as pl

from ghostkv.report.document import Column, Table, figures
from ghostkv.report.expressions import weighted
from ghostkv.report.results import Results
from ghostkv.report.sections.certificates.figures import TIGHTNESS, mean, promise
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
        "certificates_context",
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
    )


# Of layers that see the whole text: at the last of the bands that query_bands name, and at the one that ends at 4,096 tokens.
_WHOLE = f"self WHERE design = '{NESTED}' AND window = 0 AND"
_BANDS = {
    "longest": f"band_stop = (SELECT MAX(band_stop) FROM {_WHOLE} band_stop > 0)",
    "4096": "band_stop = 4096",
}
_PROMISES = {"topk": "certificate = 'topk'"} | {
    name: f"certificate = 'mass' AND target > {0.99 * share} AND target < {1.01 * share} AND decision = 'group'"
    for name, share in (("mass_5pct", 0.05), ("mass_1pct", 0.01))
}
_MEASURES = {
    "elimination": ("share", mean("elimination")),
    "bytes_gqa": ("ratio", mean("bytes_ratio_gqa")),
    "tightness": ("ratio", TIGHTNESS),
}
CONTEXT_HEADLINE = (
    *figures(
        CONTEXT, f"{_WHOLE} certificate = 'topk'", {"context.longest_tokens": ("tokens", "MAX(band_stop)")}
    ),
    *(
        figure
        for place, band in _BANDS.items()
        for promised, rows in _PROMISES.items()
        for figure in figures(
            CONTEXT,
            f"{_WHOLE} {band} AND {rows}",
            {f"context.{promised}_{name}_at_{place}": found for name, found in _MEASURES.items()},
        )
    ),
)
