"""Charts of the certificates, and the means that its tables share."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.charts import layer_panels
from ghostkv.report.document import Figure
from ghostkv.report.expressions import most, weighted
from ghostkv.report.numbers import percent
from ghostkv.stages.certificates.tables import held

_MEANS = (
    *("elimination", "values_unread", "oracle_elimination", "bytes_ratio", "bytes_ratio_gqa"),
    *("dropped_mass_mean", "certified_mass_mean", "output_error_mean", "output_error_bound_mean"),
)
# SQL: what is eliminated over what exact scores would.
TIGHTNESS = "SUM(CAST(elimination AS DOUBLE) * queries) / SUM(CAST(oracle_elimination AS DOUBLE) * queries)"


def pooled(frame: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Means over heads and texts (queries weigh alike) within each group of `by`, in order of appearance."""
    found = frame.group_by(by, maintain_order=True).agg(
        *map(weighted, _MEANS),
        pl.col("dropped_mass_max").max(),
        pl.col("checks", "violations").sum(),
        pl.col("record_bytes").mean(),
    )
    return found.with_columns((pl.col("elimination") / pl.col("oracle_elimination")).alias("tightness"))


def pooled_heads(frame: pl.DataFrame) -> pl.DataFrame:
    """Means of each head over its texts."""
    return pooled(frame, ["layer", "head"])


def mass_figure(frame: pl.DataFrame, delta: float) -> Figure:
    """Certified elimination and bytes, a row a layer."""
    heads = pooled_heads(held(frame, "nested", "mass", delta))
    oracles = {"elimination": heads.select("layer", pl.col("oracle_elimination").alias("elimination"))}
    titles = {"elimination": "Certified elimination", "bytes_ratio": "Bytes ratio per head"}
    chart, data = layer_panels(heads, oracles, titles, 270)
    return Figure(
        f"certificates_mass_{delta * 100:g}pct".replace(".", "_"),
        f"Certified dropped mass ≤ {percent(delta)}, layer by layer",
        chart,
        data,
        "A row is a layer: the dot is the mean of its heads, the bar runs from the lowest to the highest, the grey tick "
        "is what exact scores could eliminate at the same target. Nested storage, held-out texts. Where the tick lies "
        "low, attention itself is spread out; the distance from dot to tick is what the proof costs. The elimination "
        "axis need not start at zero.",
        sources=("certificates.certificates",),
    )


def promise() -> pl.Expr:
    """What a row promises, in words."""
    topk = pl.when(pl.col("certificate") == "topk").then(pl.lit("top-k, FER = 0"))
    return topk.otherwise(pl.format("dropped mass {}", most("target"))).alias("promise")


def mean(column: str) -> str:
    """SQL: a column's mean over queries."""
    return f"SUM(CAST({column} AS DOUBLE) * queries) / SUM(queries)"
