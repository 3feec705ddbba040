"""Tables of the stage `calibrated`: their columns, and what follows from all layers together."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from ghostkv.elimination.summaries import BOUND_SCHEMA
from ghostkv.stages.calibrated.conformal import dependence, floor

_DESIGN = [
    ("layer", pa.int16()),
    ("head", pa.int16()),
    ("kv_head", pa.int16()),
    ("codec", pa.string()),
    ("code_bytes", pa.int16()),
    ("record_bytes", pa.int16()),
    ("rule", pa.string()),
]
_GOAL = [
    ("target_metric", pa.string()),  # fer, dropped_mass, output_error
    ("compensation", pa.string()),  # none, mean, pages
    ("target", pa.float32()),
]
_PROMISE = [
    ("guaranteed", pa.bool_()),  # conformal risk control holds for exchangeable queries
    ("floor", pa.float32()),  # 1 / (n + 1)
    ("calibration_queries", pa.int32()),  # n
    ("theta", pa.float32()),  # null: nothing is eliminated
]
_METRICS = [
    (name, pa.float32())
    for name in (
        "achieved",  # mean of the risk that the goal bounds
        "elimination",
        "fer",
        "fer_cold",
        "dropped_mass_mean",
        "dropped_mass_p99",
        "output_error_mean",
        "output_error_p99",
        "output_error_compensated_mean",
        "output_error_pages_mean",
        "bytes_ratio",
        "bytes_ratio_gqa",
    )
]
_TEXT = [("text", pa.string()), ("domain", pa.string()), ("queries", pa.int32())]
POINT_SCHEMA = pa.schema([*_DESIGN, ("decision", pa.string()), *_GOAL, *_PROMISE, *_TEXT, *_METRICS])
BAND_SCHEMA = pa.schema(
    [*_DESIGN, *_GOAL, *_PROMISE, *_TEXT]
    + [("band_start", pa.int32()), ("band_stop", pa.int32()), ("cold_keys", pa.float32()), *_METRICS]
)
CROSS_SCHEMA = pa.schema(
    [*_DESIGN, *_GOAL, *_PROMISE]
    + [("method", pa.string())]  # conformal; plug_in where the floor lies above the target
    + [("calibrated_on", pa.string()), ("tested_on", pa.string()), ("queries", pa.int32())]
    + [("achieved", pa.float32()), ("elimination", pa.float32())]
)
TEXT_SCHEMA = pa.schema(
    [*_DESIGN, *_GOAL, ("text", pa.string()), ("domain", pa.string()), ("role", pa.string())]
    + [("queries", pa.int32()), ("risk_mean", pa.float64()), ("risk_variance", pa.float64())]
)
LEARNED_SCHEMA = pa.schema(
    [*BOUND_SCHEMA]
    + [("loss_first", pa.float32()), ("loss_last", pa.float32()), ("steps", pa.int32())]  # 0: not trained
)
SUMMARY_SCHEMA = pa.schema(
    [*_DESIGN[3:], ("decision", pa.string()), *_GOAL, ("domain", pa.string())]  # domain "all" pools them
    + [("guaranteed", pa.bool_()), ("floor", pa.float32()), ("heads", pa.int32())]
    + [("achieved", pa.float64()), ("achieved_worst_head", pa.float64())]
    + [("worst_layer", pa.int16()), ("worst_head", pa.int16())]
    + [("heads_under", pa.float64())]  # share of heads whose risk, pooled over texts, is within the target
    + [("head_texts_under", pa.float64())]  # share of (head, text) pairs
    + [(name, pa.float64()) for name in ("elimination", "elimination_worst_head", "fer", "dropped_mass_mean")]
    + [(name, pa.float64()) for name in ("output_error_mean", "output_error_compensated_mean")]
    + [(name, pa.float64()) for name in ("bytes_ratio", "bytes_ratio_gqa")]
)
DEPENDENCE_SCHEMA = pa.schema(
    [("rule", pa.string()), *_GOAL, ("role", pa.string()), ("heads", pa.int32()), ("texts", pa.int32())]
    + [("queries", pa.int32()), ("correlation", pa.float64()), ("design_effect", pa.float64())]
    + [("effective_queries", pa.float64()), ("floor", pa.float64()), ("effective_floor", pa.float64())]
    + [("text_floor", pa.float64()), ("text_risk_worst", pa.float64())]
)


LAYER_SCHEMAS = {
    "calibrated": POINT_SCHEMA,
    "bands": BAND_SCHEMA,
    "cross_domain": CROSS_SCHEMA,
    "texts": TEXT_SCHEMA,
    "learned": LEARNED_SCHEMA,
}


_BY = [*[name for name, _ in _DESIGN[3:]], "decision", *[name for name, _ in _GOAL]]


def summarise_points(points: pl.DataFrame) -> pl.DataFrame:
    """What each goal achieved: mean, worst head, share of heads under the target; in all and per domain.

    Parameters
    ----------
    points : DataFrame
        Of `POINT_SCHEMA`.
    """
    per_domain = _summary(points, ["domain"])
    pooled = _summary(points.with_columns(pl.lit("all").alias("domain")), ["domain"])
    return pl.concat([pooled, per_domain]).select(SUMMARY_SCHEMA.names)


def _summary(points: pl.DataFrame, extra: list[str]) -> pl.DataFrame:
    names = ["achieved", "elimination", "fer", "dropped_mass_mean", "output_error_mean"]
    names += ["output_error_compensated_mean", "bytes_ratio", "bytes_ratio_gqa"]
    by = [*_BY, *extra]
    within = pl.col("achieved") <= pl.col("target")
    heads = points.group_by([*by, "layer", "head"], maintain_order=True).agg(
        *[_weighted(name) for name in names],
        pl.col("guaranteed").all(),
        pl.col("floor").max(),
        within.sum().alias("texts_under"),
        pl.len().alias("texts"),
    )
    worst = pl.col("achieved").arg_max()
    return heads.group_by(by, maintain_order=True).agg(
        *[pl.col(name).mean() for name in names],
        pl.col("guaranteed").all(),
        pl.col("floor").max(),
        pl.len().alias("heads"),
        pl.col("achieved").max().alias("achieved_worst_head"),
        pl.col("layer").get(worst).alias("worst_layer"),
        pl.col("head").get(worst).alias("worst_head"),
        (pl.col("achieved") <= pl.col("target").cast(pl.Float64)).mean().alias("heads_under"),
        (pl.col("texts_under").sum() / pl.col("texts").sum()).alias("head_texts_under"),
        pl.col("elimination").min().alias("elimination_worst_head"),
    )


def _weighted(name: str) -> pl.Expr:
    """Mean over texts, each weighing as many queries as it has."""
    weight = pl.when(pl.col(name).is_not_null()).then(pl.col("queries"))
    return ((pl.col(name).cast(pl.Float64) * weight).sum() / weight.sum()).fill_nan(None).alias(name)


def summarise_dependence(texts: pl.DataFrame) -> pl.DataFrame:
    """How far the queries of a text are from independent, per rule, goal and role; heads pooled.

    Parameters
    ----------
    texts : DataFrame
        Of `TEXT_SCHEMA`.
    """
    rows = []
    keys = ["rule", "target_metric", "compensation", "target", "role"]
    for key, part in texts.group_by(keys, maintain_order=True):
        names = part["text"].unique(maintain_order=True)
        by_head = part.sort("layer", "head", "text")
        means, variances = (
            by_head[name].to_numpy().reshape(-1, len(names)) for name in ("risk_mean", "risk_variance")
        )
        queries = int(part["queries"].min())
        found = dependence(means, np.nan_to_num(variances), queries)
        rows.append(
            dict(zip(keys, key, strict=True))
            | {
                "heads": len(means),
                "texts": len(names),
                "queries": queries * len(names),
                "correlation": found.correlation,
                "design_effect": found.effect,
                "effective_queries": found.effective,
                "floor": floor(queries * len(names)),
                "effective_floor": 1.0 / (found.effective + 1.0),
                "text_floor": floor(len(names)),
                "text_risk_worst": float(means.mean(axis=0).max()),
            }
        )
    columns = {name: [row[name] for row in rows] for name in DEPENDENCE_SCHEMA.names}
    return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))
