"""The frontier's tables: their columns, and the rows of one layer as they come."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from ghostkv.elimination.summaries import BOUND_SCHEMA

KEYS = [
    ("layer", pa.int16()),
    ("head", pa.int16()),
    ("kv_head", pa.int16()),
    ("codec", pa.string()),  # "exact" is the oracle
    ("code_bytes", pa.int16()),
    ("record_bytes", pa.int16()),  # code and rho; 0 for the oracle
    ("rule", pa.string()),
    ("text", pa.string()),
    ("domain", pa.string()),
    ("role", pa.string()),
    ("theta", pa.float32()),  # null: no threshold meets the target, nothing is eliminated
    ("queries", pa.int32()),
]
METRICS = [
    (name, pa.float32())
    for name in (
        "elimination",
        "fer",
        "fer_cold",
        "dropped_mass_mean",
        "dropped_mass_p99",
        "dropped_mass_max",
        "lost_95",
        "lost_99",
        "output_error_mean",
        "output_error_p99",
        "bytes_ratio",
        "bytes_ratio_gqa",
    )
]
SWEEP_SCHEMA = pa.schema(KEYS + METRICS)
POINT_SCHEMA = pa.schema(
    [*KEYS, ("target_metric", pa.string()), ("target", pa.float32()), ("method", pa.string()), *METRICS]
)
CONTEXT_SCHEMA = pa.schema(
    [
        *KEYS,
        ("target_metric", pa.string()),
        ("target", pa.float32()),
        ("band_start", pa.int32()),
        ("band_stop", pa.int32()),
        ("cold_keys", pa.float32()),
        *METRICS,
    ]
)

LAYER_SCHEMAS = {
    "sweep": SWEEP_SCHEMA,
    "points": POINT_SCHEMA,
    "context": CONTEXT_SCHEMA,
    "bounds": BOUND_SCHEMA,
}

_HEAD = ["layer", "head", "kv_head", "codec", "code_bytes", "record_bytes", "rule"]
SAFE_SCHEMA = pa.schema(
    [
        *[(name, POINT_SCHEMA.field(name).type) for name in _HEAD],
        ("theta", pa.float32()),  # chosen on threshold texts
        ("queries", pa.int32()),  # held-out, all texts
        ("elimination", pa.float32()),
        ("fer", pa.float32()),
        ("fer_cold", pa.float32()),
        ("bytes_ratio", pa.float32()),
        ("bytes_ratio_gqa", pa.float32()),
        ("elimination_worst_text", pa.float32()),
        ("fer_worst_text", pa.float32()),
        ("safe", pa.bool_()),  # over all held-out queries
        ("safe_every_text", pa.bool_()),
        ("hindsight_theta", pa.float32()),
        ("hindsight_elimination", pa.float32()),
        ("hindsight_fer", pa.float32()),
        ("safe_hindsight", pa.bool_()),
    ]
)
LAYER_HEAD_SCHEMA = pa.schema(
    [
        *[(name, POINT_SCHEMA.field(name).type) for name in _HEAD],
        ("target_metric", pa.string()),
        ("target", pa.float32()),
        ("method", pa.string()),
        ("theta", pa.float32()),
        ("queries", pa.int32()),
        *METRICS,
        ("fer_worst_text", pa.float32()),
        ("dropped_mass_worst_text", pa.float32()),
        ("elimination_worst_text", pa.float32()),
    ]
)


def layer_head(points: pl.DataFrame) -> pl.DataFrame:
    """Calibrated and hindsight points of every head, pooled over held-out texts (queries weigh alike)."""
    pooled = points.filter(pl.col("method").is_in(["calibrated", "hindsight"]))
    names = [name for name, _ in METRICS]
    tails = [name for name in names if name.endswith(("_p99", "_max"))]
    return (
        pooled.group_by([*_HEAD, "target_metric", "target", "method"], maintain_order=True)
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
        .group_by(_HEAD, maintain_order=True)
        .agg(pl.col("theta").first(), *means, *worst, pl.col("queries").sum().alias("total"))
        .rename({"total": "queries"})
        for method in ("safe", "safe_hindsight")
    }
    hindsight = by_head["safe_hindsight"].select(
        *_HEAD, *[pl.col(n).alias(f"hindsight_{n}") for n in ("theta", "elimination", "fer")]
    )

    def holds(fer_column: str, elimination_column: str) -> pl.Expr:
        return (pl.col(fer_column) <= fer) & (pl.col(elimination_column) >= elimination)

    return (
        by_head["safe"]
        .join(hindsight, on=_HEAD, how="left", maintain_order="left")
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
