"""The tables of the stage `hierarchy`: their columns, rows of one head, and fits against the context length."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from ghostkv.elimination.intervals import over_documents
from ghostkv.stages.hierarchy.summary_schemas import FIT_SCHEMA


def power_law(keys: np.ndarray, measure: np.ndarray, texts: np.ndarray) -> tuple[float, float, float, float]:
    """Least squares of ``log measure = log factor + exponent log keys``.

    Parameters
    ----------
    keys, measure : ndarray, shape [points]
        Positive.
    texts : ndarray, shape [points]
        Text of each point. Lengths of one text share its keys, so that texts alone are independent.

    Returns
    -------
    tuple of float
        Factor, exponent, and the ends of the exponent's 95 % Student interval over texts, by the jackknife (infinite where
        one text alone has several lengths).
    """
    x, y = np.log(keys), np.log(measure)
    start, exponent = _line(x, y)
    if exponent is None:
        return float(np.exp(start)), 0.0, -np.inf, np.inf
    names = np.unique(texts)
    without = [_line(x[texts != name], y[texts != name])[1] for name in names] if len(names) > 1 else [None]
    if None in without:
        return float(np.exp(start)), exponent, -np.inf, np.inf
    _, low, high = over_documents(exponent + (len(names) - 1) * (exponent - np.array(without)))
    return float(np.exp(start)), exponent, low, high


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float | None]:
    """Start and slope by least squares; no slope where all x are the same."""
    away = x - x.mean()
    spread = (away**2).sum()
    if spread == 0:
        return float(y.mean()), None
    slope = float((away * y).sum() / spread)
    return float(y.mean() - slope * x.mean()), slope


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
            keys, texts = rows_of["keys"].to_numpy().astype(np.float64), rows_of["text"].to_numpy()
            about = {"layer": layer, "head": head, "kv_head": kv_head, "index": index, "chosen_for": aim}
            for measure, values, target in (
                ("reads", rows_of["reads"], None),
                ("reads_ratio", rows_of["reads_ratio"], 0.5),
                ("bytes", rows_of["bytes_ratio"] / rows_of["flat_bytes_ratio"], 1.0),
            ):
                factor, exponent, low, high = power_law(keys, values.to_numpy().astype(np.float64), texts)
                crossing = None if target is None else pays_from(factor, exponent, target)
                rows.append(
                    about
                    | {
                        "measure": measure,
                        "points": len(keys),
                        "texts": len(np.unique(texts)),
                        "factor": factor,
                        "exponent": exponent,
                    }
                    | {"low": low, "high": high, "longest": float(keys.max()), "pays_from": crossing}
                )
    columns = {field.name: pl.Float64 if field.type == pa.float64() else None for field in FIT_SCHEMA}
    return pl.DataFrame(rows, schema_overrides={name: kind for name, kind in columns.items() if kind})
