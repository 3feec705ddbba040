"""The sweep as one would first write it, as loops: the reference that `ghostkv.elimination.sweep` must equal."""

from __future__ import annotations

import numpy as np

from ghostkv.elimination.attention import MASS_95, MASS_99, TOP_K
from ghostkv.elimination.sweep import Sweep


def sweep_by_loop(
    statistic: np.ndarray,
    mass: np.ndarray,
    needed: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    thetas: np.ndarray,
) -> Sweep:
    """One head, query and threshold after the other, as the experiment is described; no output error.

    Parameters and result are those of `ghostkv.elimination.sweep.sweep`, with `thetas` in place of its grid.
    """
    group, queries, _ = statistic.shape
    counts = np.zeros((4, group, queries, len(thetas)), np.int32)
    dropped = np.zeros((group, queries, len(thetas)))
    union = np.zeros((queries, len(thetas)), np.int32)
    for q in range(queries):
        cold = slice(start[q], stop[q])
        for t, theta in enumerate(thetas):
            for g in range(group):
                eliminated = statistic[g, q, cold] < theta
                flags = needed[g, q, cold][eliminated]
                counts[0, g, q, t] = eliminated.sum()
                for row, flag in enumerate((TOP_K, MASS_95, MASS_99), start=1):
                    counts[row, g, q, t] = np.count_nonzero(flags & flag)
                dropped[g, q, t] = mass[g, q, cold][eliminated].sum(dtype=np.float64)
            union[q, t] = (statistic[:, q, cold] >= theta).any(axis=0).sum()
    return Sweep(*counts, dropped, None, union)


def sweep_by_theta(
    statistic: np.ndarray,
    mass: np.ndarray,
    needed: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    thetas: np.ndarray,
    values: np.ndarray | None = None,
    outputs: np.ndarray | None = None,
) -> Sweep:
    """What each threshold eliminates, one threshold after the other, vectorised over heads and queries.

    Parameters and result are those of `ghostkv.elimination.sweep.sweep`, with `thetas` in place of its grid.
    """
    position = np.arange(statistic.shape[-1])
    cold = (position >= start[:, None]) & (position < stop[:, None])
    found = []
    for theta in thetas:
        eliminated = (statistic < theta) & cold
        dropped = (mass * eliminated).sum(axis=-1, dtype=np.float64)
        error = None
        if values is not None:
            kept = ((mass * ~eliminated) @ values) / (1.0 - dropped)[..., None]
            error = np.linalg.norm(outputs - kept, axis=-1) / np.linalg.norm(outputs, axis=-1)
        found.append(
            (
                eliminated.sum(axis=-1),
                (eliminated & (needed & TOP_K > 0)).sum(axis=-1),
                (eliminated & (needed & MASS_95 > 0)).sum(axis=-1),
                (eliminated & (needed & MASS_99 > 0)).sum(axis=-1),
                dropped,
                error,
                (cold & ~eliminated.all(axis=0)).sum(axis=-1),
            )
        )
    columns = list(zip(*found, strict=True))
    error = None if values is None else np.stack(columns[5], axis=-1).astype(np.float32)
    counts = [np.stack(column, axis=-1).astype(np.int32) for column in columns[:4]]
    union = np.stack(columns[6], axis=-1).astype(np.int32)
    return Sweep(*counts, np.stack(columns[4], axis=-1), error, union)
