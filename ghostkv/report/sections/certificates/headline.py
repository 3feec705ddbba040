"""Figures of the certificates: pooled means and the headline."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import HeadlineFigure
from ghostkv.stages.certificates.tables import NESTED

TABLE, CHECKS = "certificates.certificates", "certificates.checks"
_MEANS = ("elimination", "values_unread", "oracle_elimination", "bytes_ratio", "bytes_ratio_gqa")


def pooled(frame: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Means over heads and texts (queries weigh alike) within each group of `by`, in order of appearance."""
    weight = pl.col("queries").cast(pl.Float64)
    names = [
        *_MEANS,
        "dropped_mass_mean",
        "certified_mass_mean",
        "output_error_mean",
        "output_error_bound_mean",
    ]
    means = [
        ((pl.col(name).cast(pl.Float64) * weight).sum() / weight.filter(pl.col(name).is_not_null()).sum())
        .fill_nan(None)
        .alias(name)
        for name in names
    ]
    worst = pl.col("dropped_mass_max").max()
    counts = [pl.col(name).sum() for name in ("checks", "violations")]
    found = frame.group_by(by, maintain_order=True).agg(*means, worst, *counts, pl.col("record_bytes").mean())
    return found.with_columns((pl.col("elimination") / pl.col("oracle_elimination")).alias("tightness"))


# Layers but the one whose attention is most spread out, where even exact scores eliminate least.
_BUT_DENSEST = " AND layer NOT IN (SELECT layer FROM self WHERE {where} GROUP BY layer ORDER BY AVG(oracle_elimination) LIMIT 1)"
_BASE = "design = '{design}' AND storage = 'nested' AND certificate = '{certificate}'"


def _figure(
    name: str, unit: str, value: str, certificate: str, target: float = 0.0, but_densest: bool = False
) -> HeadlineFigure:
    where = _BASE.format(design=NESTED, certificate=certificate)
    if target:
        where += f" AND target > {target * 0.99} AND target < {target * 1.01}"
    if but_densest:
        where += _BUT_DENSEST.format(where=where)
    query = f"SELECT {value} AS value, COUNT(*) AS n FROM self WHERE {where}"
    return HeadlineFigure(f"certificates.{name}", unit, TABLE, query)


def _mean(column: str) -> str:
    return f"SUM(CAST({column} AS DOUBLE) * queries) / SUM(queries)"


_TIGHTNESS = "SUM(CAST(elimination AS DOUBLE) * queries) / SUM(CAST(oracle_elimination AS DOUBLE) * queries)"
_COUNTED = "SELECT SUM({column}) AS value, COUNT(*) AS n FROM self"
HEADLINE = (
    HeadlineFigure(
        "certificates.violations", "checks", "certificates.checks", _COUNTED.format(column="violations")
    ),
    HeadlineFigure("certificates.checks", "checks", "certificates.checks", _COUNTED.format(column="checks")),
    _figure("topk.elimination", "share", _mean("elimination"), "topk"),
    _figure("topk.bytes_ratio", "ratio", _mean("bytes_ratio"), "topk"),
    _figure("topk.bytes_ratio_gqa", "ratio", _mean("bytes_ratio_gqa"), "topk"),
    _figure("mass_5pct.elimination", "share", _mean("elimination"), "mass", 0.05),
    _figure("mass_5pct.bytes_ratio", "ratio", _mean("bytes_ratio"), "mass", 0.05),
    _figure("mass_5pct.bytes_ratio_gqa", "ratio", _mean("bytes_ratio_gqa"), "mass", 0.05),
    _figure("mass_5pct.tightness", "ratio", _TIGHTNESS, "mass", 0.05),
    _figure("mass_5pct.elimination_but_densest", "share", _mean("elimination"), "mass", 0.05, True),
    _figure("mass_5pct.bytes_ratio_but_densest", "ratio", _mean("bytes_ratio"), "mass", 0.05, True),
    _figure("mass_1pct.elimination", "share", _mean("elimination"), "mass", 0.01),
    _figure("mass_1pct.bytes_ratio", "ratio", _mean("bytes_ratio"), "mass", 0.01),
    _figure("mass_1pct.tightness", "ratio", _TIGHTNESS, "mass", 0.01),
)
