"""Threshold rules: what is compared with theta, and how theta is chosen on calibration text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ghostkv.elimination.attention import ColdRange, kth_largest
from ghostkv.elimination.schemas import POINT_SCHEMA
from ghostkv.files.compiled import njit
from ghostkv.files.errors import ConfigError, TableError
from ghostkv.files.io import read_table

if TYPE_CHECKING:
    from ghostkv.codecs.records import CodecSpec

RULES = ("absolute", "relative_topk", "relative_lse")
_KIND = {rule: kind for kind, rule in enumerate(RULES)}


def calibrated_thetas(
    points: str, spec: CodecSpec, rule: str, metric: str, target: float, layer: int | None = None
) -> dict[int, np.ndarray]:
    """Theta of every head by layer, as the frontier calibrated it; -inf where none met the target.

    Parameters
    ----------
    points : str
        The frontier's table of points.

    Raises
    ------
    TableError
        The table has no such points; the message names those that it has.
    """
    columns = ["layer", "head", "codec", "code_bytes", "rule", "target_metric", "target", "method", "theta"]
    design = read_table(points, POINT_SCHEMA, columns).filter(
        (pl.col("codec") == spec.name)
        & (pl.col("code_bytes") == spec.code_bytes)
        & (pl.col("rule") == rule)
        & (pl.col("method") == "calibrated")
    )
    design = design if layer is None else design.filter(pl.col("layer") == layer)
    chosen = design.filter(
        (pl.col("target_metric") == metric) & ((pl.col("target") - target).abs() < 1e-6)
    ).unique(["layer", "head"])
    if chosen.is_empty():
        goals = {
            (name, round(level, 4)) for name, level in design.select("target_metric", "target").iter_rows()
        }
        where = "" if layer is None else f" in layer {layer}"
        raise TableError(
            f"{points}: no calibrated {metric} point at {target:g} of {spec.name} at {spec.code_bytes} bytes under "
            f"{rule}{where}. Accepted: {sorted(goals)}.\n"
            f"  Write: frontier: {{targets: {{{metric}: [{target:g}]}}}}, or delete it and rerun frontier"
        )
    chosen = chosen.sort("layer", "head").with_columns(pl.col("theta").fill_nan(None).fill_null(-np.inf))
    return {
        layer: rows["theta"].to_numpy() for (layer,), rows in chosen.group_by("layer", maintain_order=True)
    }


def kept_or_estimated(
    estimates: np.ndarray, exact: np.ndarray, visible: ColdRange, out: np.ndarray | None = None
) -> np.ndarray:
    """What is known at query time: estimates of cold keys, exact scores of sinks and hot window, -inf beyond.

    Parameters
    ----------
    estimates, exact : ndarray of float32, shape [group, queries, keys]
    """
    known = np.empty_like(exact) if out is None else out
    np.copyto(known, exact)
    _insert_cold(estimates, visible.start, visible.stop, known)
    return known


def reference(rule: str, known: np.ndarray, visible: ColdRange, top_k: int) -> np.ndarray:
    """What a relative rule measures scores from; float32, shape [group, queries].

    `absolute` measures from 0, `relative_topk` from the k-th best known score, `relative_lse` from the
    log-sum-exp of the known scores. Nothing here looks at the exact score of a cold key.

    Raises
    ------
    ConfigError
        No rule has that name.
    """
    if rule not in _KIND:
        raise ConfigError(f"frontier.rules: no threshold rule {rule!r}; the rules are {', '.join(RULES)}")
    if rule == "absolute":
        return np.zeros(known.shape[:-1], np.float32)
    if rule == "relative_topk":
        return kth_largest(known, visible.first, visible.last, min(top_k, known.shape[-1]))
    peak = known.max(axis=-1, keepdims=True)
    total = np.exp(known - peak).sum(axis=-1, dtype=np.float64)
    return (peak[..., 0] + np.log(total)).astype(np.float32)


def statistic(
    rule: str,
    estimates: np.ndarray,
    origin: np.ndarray,
    weight: np.ndarray,
    radius: np.ndarray,
    visible: ColdRange,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The statistic that a rule compares with theta; a key is eliminated when its statistic is below theta.

    With margin ``m = weight * radius``: `absolute` compares the upper bound ``s_hat + m``; `relative_topk` the
    distance from the k-th best in margins ``(s_hat - tau) / m`` (at theta = -1 the bound itself is below tau);
    `relative_lse` the estimated log mass ``s_hat - lse``. A key whose record bounds nothing is never eliminated.

    Parameters
    ----------
    estimates : ndarray of float32, shape [group, queries, keys]
    origin : ndarray of float32, shape [group, queries]
        From `reference`.
    weight : ndarray of float32, shape [group, queries]
        ``scale * ||W^-T q||``.
    radius : ndarray of float32, shape [keys]
        ``rho`` with rounding slack.
    out : ndarray of float32, shape [group, queries, keys], optional
        Where to write; only cold keys are written.
    """
    out = np.zeros_like(estimates) if out is None else out
    _statistic(_KIND[rule], estimates, origin, weight, radius, visible, out)
    return out


def conformal_index(risk: np.ndarray, samples: int, target: float) -> int:
    """The largest threshold whose risk is controlled, as an index; -1 where none is.

    Conformal risk control (Angelopoulos et al. 2024, eq. 4) for a risk that is bounded by 1 and grows with
    theta: ``n / (n + 1) * R + 1 / (n + 1) <= target``. For exchangeable queries the expected risk of a new
    query is then at most the target. Below ``1 / (n + 1)`` no threshold can be guaranteed.

    Parameters
    ----------
    risk : ndarray, shape [thetas]
        Mean risk on the calibration queries at ascending thresholds.
    """
    controlled = (samples * risk + 1.0) / (samples + 1.0) <= target
    return int(np.cumprod(controlled).sum()) - 1


@njit(cache=True, nogil=True, error_model="numpy")
def _insert_cold(estimates, start, stop, known):
    for g in range(known.shape[0]):
        for q in range(known.shape[1]):
            # A loop: an assignment of slices also compiles the message that their shapes differ, two seconds of it.
            for j in range(start[q], stop[q]):
                known[g, q, j] = estimates[g, q, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _statistic(kind, estimates, origin, weight, radius, visible, out):
    never = np.float32(np.inf)
    for g in range(out.shape[0]):
        for q in range(out.shape[1]):
            o, w, cold = origin[g, q], weight[g, q], slice(visible.start[q], visible.stop[q])
            row, known, reach = out[g, q, cold], estimates[g, q, cold], radius[cold]
            for j in range(row.size):
                margin = w * reach[j]
                if kind == 0:
                    value = known[j] + margin
                elif kind == 1:
                    value = (known[j] - o) / margin
                else:
                    value = known[j] - o
                # What is not a number passes neither test, and its key stays.
                row[j] = value if margin < never and value < never else never


@njit(cache=True, nogil=True, error_model="numpy")
def union_survivors(statistics, theta, start, stop):
    """Cold keys that at least one head of a group keeps, each head with its own theta; int64 [queries].

    Parameters
    ----------
    statistics : ndarray of float32, shape [group, queries, keys]
    theta : ndarray of float32, shape [group]
        -inf for a head that eliminates nothing.
    start, stop : ndarray of int64, shape [queries]
    """
    group, queries, keys = statistics.shape
    buffer = np.empty(keys, np.uint8)
    union = np.zeros(queries, np.int64)
    for q in range(queries):
        kept = buffer[: max(stop[q] - start[q], 0)]
        kept[:] = 0
        for g in range(group):
            row, least = statistics[g, q, start[q] : stop[q]], theta[g]
            for j in range(kept.size):
                kept[j] |= np.uint8(row[j] >= least)
        union[q] = kept.sum()
    return union
