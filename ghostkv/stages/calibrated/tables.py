"""Tables of the stage `calibrated`: their columns, and what follows from all layers together."""

from __future__ import annotations

import numpy as np
import polars as pl

from ghostkv.stages.calibrated.conformal import dependence, floor
from ghostkv.stages.calibrated.schemas import DESIGN, GOAL
from ghostkv.stages.calibrated.summary_schemas import DEPENDENCE_SCHEMA, SUMMARY_SCHEMA

_DESIGN, _GOAL = [name for name, _ in DESIGN[3:]], [name for name, _ in GOAL]
_BY = [*_DESIGN, "decision", *_GOAL]


def summarise_points(points: pl.DataFrame, dependence: pl.DataFrame) -> pl.DataFrame:
    """What each goal achieved: mean, worst head, share of heads under the target; in all and per domain.

    Takes rows of `POINT_SCHEMA` and of `DEPENDENCE_SCHEMA`.
    """
    per_domain = _summary(points, ["domain"])
    pooled = _summary(points.with_columns(pl.lit("all").alias("domain")), ["domain"])
    worth = dependence.filter(pl.col("role") == "threshold").select(
        *_DESIGN, *_GOAL, "effective_queries", "effective_floor"
    )
    found = pl.concat([pooled, per_domain]).join(
        worth, on=[*_DESIGN, *_GOAL], how="left", maintain_order="left"
    )
    return found.select(SUMMARY_SCHEMA.names)


def _summary(points: pl.DataFrame, extra: list[str]) -> pl.DataFrame:
    names = ["achieved", "elimination", "fer", "dropped_mass_mean", "output_error_mean"]
    names += ["output_error_compensated_mean", "bytes_ratio", "bytes_ratio_gqa"]
    by = [*_BY, *extra]
    within = pl.col("achieved") <= pl.col("target")
    heads = points.group_by([*by, "layer", "head"], maintain_order=True).agg(
        *[_weighted(name) for name in names],
        pl.col("guaranteed_if_exchangeable").all(),
        pl.col("floor").max(),
        within.sum().alias("texts_under"),
        pl.len().alias("texts"),
    )
    worst = pl.col("achieved").arg_max()
    return heads.group_by(by, maintain_order=True).agg(
        *[pl.col(name).mean() for name in names],
        pl.col("guaranteed_if_exchangeable").all(),
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


def summarise_dependence(texts: pl.DataFrame, failure: float) -> pl.DataFrame:
    """How far the queries of a text are from independent, per design, goal and role; heads pooled.

    Takes rows of `TEXT_SCHEMA`; `failure` is that of the high-probability thresholds.
    """
    rows = []
    keys = [*_DESIGN, *_GOAL, "role"]
    for key, part in texts.group_by(keys, maintain_order=True):
        names = part["text"].unique(maintain_order=True)
        by_head = part.sort("layer", "head", "text")
        means, variances, queries = (
            by_head[name].to_numpy().reshape(-1, len(names))
            for name in ("risk_mean", "risk_variance", "queries")
        )
        samples = int(queries[0].sum())
        found = dependence(means, np.nan_to_num(variances), queries[0])
        rows.append(
            dict(zip(keys, key, strict=True))
            | {
                "heads": len(means),
                "texts": len(names),
                "queries": samples,
                "correlation": found.correlation,
                "design_effect": found.effect,
                "effective_queries": found.effective,
                "floor": floor(samples),
                "effective_floor": floor(found.effective),
                "high_floor": floor(found.effective, failure),
                "text_floor": floor(len(names)),
                "text_risk_worst": float(means.mean(axis=0).max()),
            }
        )
    columns = {name: [row[name] for row in rows] for name in DEPENDENCE_SCHEMA.names}
    return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))
