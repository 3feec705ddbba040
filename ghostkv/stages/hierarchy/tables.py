"""The tables of the stage `hierarchy`: their columns, rows of one head, and fits against the context length."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import pyarrow as pa
from scipy import stats

HEAD_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("head", pa.int16()),
        ("kv_head", pa.int16()),
        ("text", pa.string()),
        ("domain", pa.string()),
        ("role", pa.string()),  # threshold (where indexes are chosen), held_out or trace
        ("context", pa.int32()),  # queries lie in the last part before this position
        (
            "certificate",
            pa.string(),
        ),  # topk (FER = 0), mass (dropped mass at most target), calibrated (statistical)
        ("target", pa.float32()),  # dropped mass, or the FER aimed at; 0 for topk
        ("index", pa.string()),
        ("mode", pa.string()),  # grown: a block at once, then chunks; appended: chunks alone
        ("chosen_for_reads", pa.bool_()),  # the KV head's index by threshold texts
        ("chosen_for_bytes", pa.bool_()),
        ("queries", pa.int32()),
        ("keys", pa.float32()),  # cold keys, mean over queries like all below
        ("anchor_bytes", pa.float32()),
        ("anchors", pa.float32()),
        ("records", pa.float32()),  # keys of which a record was read
        ("reads", pa.float32()),  # anchors and records
        ("flat_reads", pa.float32()),
        ("reads_ratio", pa.float32()),  # reads over flat_reads
        (
            "level_ratio",
            pa.float32(),
        ),  # anchors and levels of records, over the flat scan's levels; null for mass
        (
            "scan_ratio",
            pa.float32(),
        ),  # bytes of anchors and record levels, over the flat scan's; null for mass
        ("bytes_ratio", pa.float32()),  # everything read over full K and V in float16
        ("flat_bytes_ratio", pa.float32()),
        ("bytes_ratio_gqa", pa.float32()),  # read once a group; null for mass
        ("flat_bytes_ratio_gqa", pa.float32()),
        ("elimination", pa.float32()),
        ("flat_elimination", pa.float32()),
        ("fer", pa.float32()),  # exact top-k keys left out; null for mass
        ("share", pa.float32()),  # of the margins that is kept; 1 for certificates
        ("violations", pa.int64()),  # queries that break the certificate; for calibrated: that miss a key
    ]
)
CHECK_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("kv_head", pa.int16()),
        ("text", pa.string()),
        ("context", pa.int32()),
        ("index", pa.string()),
        ("mode", pa.string()),
        ("bound", pa.string()),  # ball, cone, box or wide
        # leaf, coarse: every member's float64 score is at most its anchor's bound; topk, mass: the certificate holds.
        ("what", pa.string()),
        ("checks", pa.int64()),
        ("violations", pa.int64()),
    ]
)
FIT_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("head", pa.int16()),
        ("kv_head", pa.int16()),
        ("index", pa.string()),
        ("chosen_for", pa.string()),  # reads or bytes
        ("measure", pa.string()),  # reads: anchors and records; reads_ratio, bytes: hierarchical over flat
        ("points", pa.int32()),  # texts and context lengths
        ("factor", pa.float64()),  # measure = factor * keys ^ exponent
        ("exponent", pa.float64()),
        ("low", pa.float64()),  # 95 % Student interval of the exponent
        ("high", pa.float64()),
        ("longest", pa.float64()),  # most keys measured
        (
            "pays_from",
            pa.float64(),
        ),  # keys at which the ratio falls below 1 (reads_ratio: 1/2); null for never
    ]
)
SCHEMAS: Mapping[str, pa.Schema] = {"heads": HEAD_SCHEMA, "checks": CHECK_SCHEMA}


def power_law(keys: np.ndarray, measure: np.ndarray) -> tuple[float, float, float, float]:
    """Least squares of ``log measure = log factor + exponent log keys``.

    Parameters
    ----------
    keys, measure : ndarray, shape [points]
        Positive.

    Returns
    -------
    tuple of float
        Factor, exponent, and the ends of the exponent's 95 % Student interval (infinite below three points).
    """
    x, y = np.log(keys), np.log(measure)
    away = x - x.mean()
    spread = (away**2).sum()
    if spread == 0:
        return float(np.exp(y.mean())), 0.0, -np.inf, np.inf
    exponent = (away * y).sum() / spread
    start = y.mean() - exponent * x.mean()
    free = len(x) - 2
    if free < 1:
        return float(np.exp(start)), float(exponent), -np.inf, np.inf
    error = np.sqrt(((y - start - exponent * x) ** 2).sum() / free / spread)
    reach = stats.t.ppf(0.975, free) * error
    return float(np.exp(start)), float(exponent), float(exponent - reach), float(exponent + reach)


def pays_from(factor: float, exponent: float, target: float) -> float | None:
    """Keys at which ``factor * keys ^ exponent`` falls below `target`; None where it never does."""
    if exponent >= 0:
        return 0.0 if exponent == 0 and factor < target else None
    log = (np.log(target) - np.log(factor)) / exponent
    return float(np.exp(log)) if log < 60 else None


def fits(heads: pl.DataFrame) -> pl.DataFrame:
    """Fits of every head's chosen index, over held-out texts and context lengths (columns of `FIT_SCHEMA`)."""
    rows = []
    measured = heads.filter(
        pl.col("certificate") == "topk", pl.col("mode") == "grown", pl.col("role") != "threshold"
    )
    for aim in ("reads", "bytes"):
        chosen = measured.filter(pl.col(f"chosen_for_{aim}"))
        for (layer, head, kv_head, index), rows_of in chosen.group_by(
            "layer", "head", "kv_head", "index", maintain_order=True
        ):
            keys = rows_of["keys"].to_numpy().astype(np.float64)
            about = {"layer": layer, "head": head, "kv_head": kv_head, "index": index, "chosen_for": aim}
            for measure, values, target in (
                ("reads", rows_of["reads"], None),
                ("reads_ratio", rows_of["reads_ratio"], 0.5),
                ("bytes", rows_of["bytes_ratio"] / rows_of["flat_bytes_ratio"], 1.0),
            ):
                factor, exponent, low, high = power_law(keys, values.to_numpy().astype(np.float64))
                crossing = None if target is None else pays_from(factor, exponent, target)
                rows.append(
                    about
                    | {"measure": measure, "points": len(keys), "factor": factor, "exponent": exponent}
                    | {"low": low, "high": high, "longest": float(keys.max()), "pays_from": crossing}
                )
    columns = {field.name: pl.Float64 if field.type == pa.float64() else None for field in FIT_SCHEMA}
    return pl.DataFrame(rows, schema_overrides={name: kind for name, kind in columns.items() if kind})
