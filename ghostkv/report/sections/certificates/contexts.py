"""Certificates against context: what a query's position changes."""

from __future__ import annotations

import polars as pl

from ghostkv.report.document import Column, Table, figures
from ghostkv.report.expressions import weighted
from ghostkv.report.results import Results
from ghostkv.report.sections.certificates.figures import mean, promise

CONTEXT = "certificates.context"


def contexts(results: Results) -> Table:
    """Each certificate by band of positions."""
    data = results.table(CONTEXT).group_by(
        "certificate", "target", "decision", "window", "band_start", "band_stop", maintain_order=True
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


# Of layers that see the whole text, at the last of the bands that query_bands name.
_LONGEST = "self WHERE window = 0 AND band_stop = (SELECT MAX(band_stop) FROM self WHERE window = 0) AND"
_LONGEST_MASS = (
    f"{_LONGEST} certificate = 'mass' AND target > 0.0099 AND target < 0.0101 AND decision = 'group'"
)
CONTEXT_HEADLINE = (
    *figures(
        CONTEXT,
        f"{_LONGEST} certificate = 'topk'",
        {
            "context.longest_tokens": ("tokens", "MAX(band_stop)"),
            "context.topk_elimination_at_longest": ("share", mean("elimination")),
            "context.topk_bytes_gqa_at_longest": ("ratio", mean("bytes_ratio_gqa")),
        },
    ),
    *figures(
        CONTEXT,
        _LONGEST_MASS,
        {"context.mass_1pct_bytes_gqa_at_longest": ("ratio", mean("bytes_ratio_gqa"))},
    ),
)
