"""From estimated scores to estimated mass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numba import njit

from ghostkv.selectors.base import Scene, Selection


def with_tail(selection: Selection, estimates: np.ndarray, scene: Scene) -> Selection:
    """A selection whose eliminated keys are compensated by their estimated scores, which are overwritten."""
    _, tail = normalise(estimates, scene)
    return replace(selection, tail=tail)


def normalise(estimates: np.ndarray, scene: Scene) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Turn estimated scores, float32 of shape [group, queries, tokens], into log mass, in place.

    Returns
    -------
    log_mass : ndarray of float32, shape [group, queries, tokens]
        ``s_hat - lse`` of cold keys, where lse is the log-sum-exp of the estimates of cold keys and the exact
        scores of the others.
    tail : tuple of ndarray
        ``e^(s_hat - peak)`` and ``peak``, as `Selection.tail`; valid until the next call for this scene.
    """
    start, stop = scene.visible.start, scene.visible.stop
    weights = scene._spare
    peak = np.maximum(_cold_peak(estimates, start, stop), scene.known_lse)
    with np.errstate(over="ignore"):
        np.exp(np.subtract(estimates, peak[..., None], out=weights), out=weights)
    total = _cold_sum(weights, start, stop) + np.exp(scene.known_lse - peak)
    np.subtract(estimates, (peak + np.log(total)).astype(np.float32)[..., None], out=estimates)
    return estimates, (weights, peak)


@njit(cache=True, nogil=True, error_model="numpy")
def _cold_peak(estimates, start, stop):
    out = np.full(estimates.shape[:2], -np.inf, np.float32)
    for g in range(estimates.shape[0]):
        for q in range(estimates.shape[1]):
            row = estimates[g, q, start[q] : stop[q]]
            for j in range(row.size):
                out[g, q] = max(out[g, q], row[j])
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _cold_sum(weights, start, stop):
    out = np.zeros(weights.shape[:2])
    for g in range(weights.shape[0]):
        for q in range(weights.shape[1]):
            total = 0.0
            row = weights[g, q, start[q] : stop[q]]
            for j in range(row.size):
                total += row[j]
            out[g, q] = total
    return out
