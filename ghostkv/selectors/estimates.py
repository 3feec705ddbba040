"""From estimated scores to estimated mass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numba import njit

from ghostkv.selectors.base import Scene, Selection


def with_tail(selection: Selection, scene: Scene) -> Selection:
    """A selection whose eliminated keys are compensated by the estimated scores in `scene.scratch`."""
    _, peak = normalise(scene)
    return replace(selection, tail=(scene.spare, peak))


def normalise(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Turn the estimated scores in `scene.scratch` into log mass.

    Returns
    -------
    log_mass : ndarray of float32, shape [group, queries, tokens]
        In `scene.scratch`: ``s_hat - lse`` of cold keys, where lse is the log-sum-exp of the estimates of cold
        keys and the exact scores of the others.
    peak : ndarray of float32, shape [group, queries]
        `scene.spare` holds ``e^(s_hat - peak)``.
    """
    start, stop = scene.visible.start, scene.visible.stop
    peak = np.maximum(_cold_peak(scene.scratch, start, stop), scene.known_lse)
    with np.errstate(over="ignore"):
        np.exp(np.subtract(scene.scratch, peak[..., None], out=scene.spare), out=scene.spare)
    total = _cold_sum(scene.spare, start, stop) + np.exp(scene.known_lse - peak)
    np.subtract(scene.scratch, (peak + np.log(total)).astype(np.float32)[..., None], out=scene.scratch)
    return scene.scratch, peak


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
