"""The frontier's tables: their columns, and the rows of one layer as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ghostkv.elimination.summaries import BOUND_SCHEMA
from ghostkv.io import ParquetAppender, write_table

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


class LayerTables:
    """Rows of one layer's tables as they come; a block is a few keys and columns of equal shape."""

    SCHEMAS: ClassVar[Mapping[str, pa.Schema]] = {
        "sweep": SWEEP_SCHEMA,
        "points": POINT_SCHEMA,
        "context": CONTEXT_SCHEMA,
        "bounds": BOUND_SCHEMA,
    }

    def __init__(self) -> None:
        self.blocks: dict[str, list[tuple[int, dict]]] = {table: [] for table in self.SCHEMAS}

    def add(self, table: str, keys: Mapping, columns: Mapping[str, np.ndarray]) -> None:
        """Append a block: scalars of `keys` are repeated, arrays of `columns` are flattened."""
        flat = {name: np.ravel(np.asarray(values)) for name, values in columns.items()}
        self.blocks[table].append((len(next(iter(flat.values()))), dict(keys) | flat))

    def write(self, outputs: Mapping[str, str], metadata: Mapping[str, str]) -> None:
        """Write the four tables; a metric that a block lacks (no values captured) and NaN are null."""
        for table, schema in self.SCHEMAS.items():
            columns = [self._column(table, field) for field in schema]
            write_table(pa.Table.from_arrays(columns, schema=schema), outputs[table], schema, metadata)

    def _column(self, table: str, field: pa.Field) -> pa.Array:
        if pa.types.is_string(field.type):
            return pa.concat_arrays([_strings(block[field.name], rows) for rows, block in self.blocks[table]])
        values = np.concatenate(
            [np.broadcast_to(block.get(field.name, np.nan), rows) for rows, block in self.blocks[table]]
        )
        return pa.array(values.astype(field.type.to_pandas_dtype()), mask=np.isnan(values))


def _strings(value: str | np.ndarray, rows: int) -> pa.Array:
    if isinstance(value, str):
        return pa.repeat(pa.scalar(value, pa.string()), rows)
    return pa.array(value, pa.string())


def concatenate(files: Sequence[str], output: str, metadata: Mapping[str, str]) -> None:
    """Join the layers' files of one table, a row group each, without holding them together."""
    with ParquetAppender(output, pq.read_schema(files[0]).remove_metadata(), metadata) as appender:
        for file in files:
            appender.append(dict(zip(*_columns(pq.read_table(file)), strict=True)))


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


def _columns(table: pa.Table) -> tuple[list[str], list[pa.Array]]:
    return table.column_names, [pa.concat_arrays(column.chunks) for column in table.columns]
