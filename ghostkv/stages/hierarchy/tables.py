"""The tables of the stage `hierarchy`: their columns, rows of one head, and fits against the context length."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from scipy import stats

from ghostkv.stages.hierarchy.summary_schemas import FIT_SCHEMA


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
