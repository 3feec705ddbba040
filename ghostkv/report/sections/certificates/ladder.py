"""Where the bytes of a certificate go: a ladder from exact scores to what a group reads, layer by layer."""

from __future__ import annotations

import polars as pl

from ghostkv.report.document import Column, Table
from ghostkv.report.expressions import weighted
from ghostkv.report.numbers import percent
from ghostkv.stages.certificates.tables import held

# From the first step to the last: column, who decides, the column of the certificates' table.
_STEPS = (
    ("heads", "head", "oracle_bytes_ratio"),
    ("united", "head", "oracle_bytes_ratio_gqa"),
    ("together", "group", "oracle_bytes_ratio_gqa"),
    ("margin", "group", "kept_bytes_ratio_gqa"),
    ("records", "group", "bytes_ratio_gqa"),
    ("constants", "group", "constants_bytes_ratio"),
)


def ladder(frame: pl.DataFrame, delta: float) -> Table:
    """Bytes ratios of each step, by layer and over all of them."""
    rows = None
    for name, decision, column in _STEPS:
        found = held(frame, "nested", "mass", delta, decision).with_columns(pl.col("layer").cast(pl.String))
        whole = found.with_columns(pl.lit("all").alias("layer"))
        means = (
            pl.concat([found, whole]).group_by("layer", maintain_order=True).agg(weighted(column).alias(name))
        )
        rows = means if rows is None else rows.join(means, on="layer", how="left")
    return Table(
        f"certificates_ladder_{delta * 100:g}pct".replace(".", "_"),
        f"Where the bytes go at dropped mass ≤ {percent(delta)}: bytes ratios, each step with those before. *Each head* is how flat "
        "attention is: exact scores, K and V of what one head keeps. *United* is what any head of the group keeps. *Together* has the "
        "heads choose for the group. *Margin* is what the certificate keeps in the place of exact scores. *Records* adds the levels "
        "that were read of keys that are left out: what a group really reads. *Constants* adds the arrays of the codec, which no other "
        "figure counts: a step of one sequence reads them once a KV head, a batch shares them, and their part falls as 1 over the context.",
        rows.with_columns((pl.col("records") + pl.col("constants")).alias("constants")),
        {
            "layer": Column("Layer"),
            "heads": Column("Exact scores: each head", "ratio"),
            "united": Column("united", "ratio"),
            "together": Column("together", "ratio"),
            "margin": Column("Certificate: margin", "ratio"),
            "records": Column("records", "ratio"),
            "constants": Column("constants", "ratio"),
        },
        sources=("certificates.certificates",),
    )
