"""What the frontier says of each head, from the points of all layers."""

from __future__ import annotations

import polars as pl

from ghostkv.stages.frontier.schemas import METRICS
from ghostkv.stages.frontier.summary_schemas import HEAD


def layer_head(points: pl.DataFrame) -> pl.DataFrame:
    """Calibrated and hindsight points of every head, pooled over held-out texts (queries weigh alike)."""
    pooled = points.filter(pl.col("method").is_in(["calibrated", "hindsight"]))
    names = [name for name, _ in METRICS]
    tails = [name for name in names if name.endswith(("_p99", "_max"))]
    return (
        pooled.group_by([*HEAD, "target_metric", "target", "method"], maintain_order=True)
        .agg(
            pl.col("theta").first(),
            *[_weighted(name) for name in names if name not in tails],
            # A tail does not average: the worst text's stands for all.
            *[pl.col(name).max() for name in tails],
            pl.col("fer").max().alias("fer_worst_text"),
            pl.col("dropped_mass_mean").max().alias("dropped_mass_worst_text"),
            pl.col("elimination").min().alias("elimination_worst_text"),
            pl.col("queries").sum().alias("total"),
        )
        .rename({"total": "queries"})
    )


def safe_points(points: pl.DataFrame, fer: float, elimination: float) -> pl.DataFrame:
    """Per head: the threshold chosen on threshold texts, what it does on held-out texts, and whether that is
    safe.

    Parameters
    ----------
    points : DataFrame
        Of `POINT_SCHEMA`, with the methods `safe` and `safe_hindsight`.
    fer, elimination : float
        Safe is a held-out false elimination rate of at most `fer` and an elimination of at least
        `elimination`.
    """
    worst = [
        pl.col("elimination").min().alias("elimination_worst_text"),
        pl.col("fer").max().alias("fer_worst_text"),
    ]
    means = [_weighted(n) for n in ("elimination", "fer", "fer_cold", "bytes_ratio", "bytes_ratio_gqa")]
    by_head = {
        method: points.filter(pl.col("method") == method)
        .group_by(HEAD, maintain_order=True)
        .agg(pl.col("theta").first(), *means, *worst, pl.col("queries").sum().alias("total"))
        .rename({"total": "queries"})
        for method in ("safe", "safe_hindsight")
    }
    hindsight = by_head["safe_hindsight"].select(
        *HEAD, *[pl.col(n).alias(f"hindsight_{n}") for n in ("theta", "elimination", "fer")]
    )

    def holds(fer_column: str, elimination_column: str) -> pl.Expr:
        return (pl.col(fer_column) <= fer) & (pl.col(elimination_column) >= elimination)

    return (
        by_head["safe"]
        .join(hindsight, on=HEAD, how="left", maintain_order="left")
        .with_columns(
            holds("fer", "elimination").alias("safe"),
            holds("fer_worst_text", "elimination_worst_text").alias("safe_every_text"),
            holds("hindsight_fer", "hindsight_elimination").alias("safe_hindsight"),
        )
    )


def _weighted(name: str) -> pl.Expr:
    """Mean over texts, each weighing as many queries as it has; texts without a value are left out."""
    weight = pl.when(pl.col(name).is_not_null()).then(pl.col("queries"))
    return ((pl.col(name).cast(pl.Float64) * weight).sum() / weight.sum()).fill_nan(None).alias(name)
