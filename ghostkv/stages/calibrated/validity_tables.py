"""What the promises of all layers' heads are worth on other texts, summed up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ghostkv.elimination.monitor import Monitor
from ghostkv.stages.calibrated.high_probability import BENTKUS
from ghostkv.stages.calibrated.schemas import DESIGN, GOAL
from ghostkv.stages.calibrated.summary_schemas import (
    ALARM_SCHEMA,
    ALIKE_SCHEMA,
    SURELY_SCHEMA,
    VALIDITY_SCHEMA,
)
from ghostkv.stages.calibrated.validity import alike_texts, false_discovery

if TYPE_CHECKING:
    from ghostkv.config.calibrated import Validity

_BY = [name for name, _ in [*DESIGN[3:], *GOAL]]


def summarise_validity(resampled: pl.DataFrame, validity: Validity) -> pl.DataFrame:
    """Shares of repeated calibrations above their target beside what the theory allows.

    Takes rows of `RESAMPLED_SCHEMA`. Thresholds with high probability may leave `failure` of the calibrations above. Of conformal
    ones the theory bounds the mean risk, so `target_excess` is held against 0 and `allowed` is null.
    """
    allowed = pl.when(pl.col("method") == BENTKUS).then(validity.failure).alias("allowed")
    found = resampled.group_by(*_BY, "draw", "method", maintain_order=True).agg(
        pl.len().alias("heads"),
        *[pl.col(name).cast(pl.Float64).mean() for name in ("queries", "promising", "above", "risk")],
    )
    excess = (pl.col("risk") - pl.col("target").cast(pl.Float64)).alias("target_excess")
    calibrations = pl.lit(validity.resamplings).alias("calibrations")
    return found.with_columns(allowed, excess, calibrations).select(VALIDITY_SCHEMA.names)


def summarise_surely(points: pl.DataFrame) -> pl.DataFrame:
    """What thresholds cost that hold on average or with high probability; takes rows of `HIGH_SCHEMA`."""
    names = ["achieved", "elimination", "bytes_ratio", "bytes_ratio_gqa"]
    weighted = [
        (pl.col(name).cast(pl.Float64) * pl.col("queries")).sum() / pl.col("queries").sum() for name in names
    ]
    by = [*_BY, "method"]
    heads = points.group_by(*by, "layer", "head", maintain_order=True).agg(
        *[one.alias(name) for one, name in zip(weighted, names, strict=True)],
        pl.col("floor").cast(pl.Float64).max(),
    )
    found = heads.group_by(by, maintain_order=True).agg(
        pl.len().alias("heads"),
        pl.col("floor").max(),
        (pl.col("achieved") <= pl.col("target").cast(pl.Float64)).mean().alias("heads_under"),
        *[pl.col(name).mean() for name in names],
    )
    return found.select(SURELY_SCHEMA.names)


def summarise_alike(texts: pl.DataFrame, validity: Validity) -> pl.DataFrame:
    """Tests of exchangeability over all heads; takes rows of `EXCHANGEABILITY_SCHEMA`."""
    rows = []
    for key, part in texts.group_by(_BY, maintain_order=True):
        names = part["text"].unique(maintain_order=True)
        by_head = part.sort("layer", "head", "text")
        means, p_queries = (
            by_head[name].to_numpy().reshape(-1, len(names)) for name in ("risk_mean", "p_queries")
        )
        first = by_head["role"].to_numpy()[: len(names)] == "threshold"
        found = alike_texts(means, first, validity.permutations, validity.seed)
        rows.append(
            dict(zip(_BY, key, strict=True))
            | {
                "heads": len(means),
                "texts": len(names),
                "rejected_queries": false_discovery(p_queries[:, 0]),
                "rejected_roles": false_discovery(found.each),
                "p_roles": found.joint,
                "p_least": found.least,
                "threshold_mean": float(means[:, first].mean()),
                "held_out_mean": float(means[:, ~first].mean()),
            }
        )
    return pl.DataFrame({name: [row[name] for row in rows] for name in ALIKE_SCHEMA.names})


def summarise_alarms(monitored: pl.DataFrame, validity: Validity) -> pl.DataFrame:
    """When a monitor of the mean dropped mass over all heads raises its alarm, text by text.

    Takes rows of `MONITORED_SCHEMA`.
    """
    rows = []
    for key, part in monitored.group_by(*_BY, "calibrated_on", "domain", "text", maintain_order=True):
        named = dict(zip([*_BY, "calibrated_on", "tested_on", "text"], key, strict=True))
        # By position: layers need not have captured the same queries.
        by_position = part.select("positions", "losses").explode("positions", "losses").group_by("positions")
        losses = (
            by_position.agg(pl.col("losses").cast(pl.Float64).mean()).sort("positions")["losses"].to_numpy()
        )
        monitor = Monitor(named["target"], validity.alarm)
        evidence = monitor.update(np.clip(losses, 0.0, 1.0))
        found = {"steps": monitor.steps, "risk_mean": float(losses.mean()), "alarm": monitor.alarm}
        rows.append(named | found | {"evidence": float(evidence.max())})
    return pl.DataFrame({name: [row[name] for row in rows] for name in ALARM_SCHEMA.names})
