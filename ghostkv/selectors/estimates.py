"""From estimated scores to estimated mass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ghostkv.elimination.attention import cap
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import Scene, Selection


def with_tail(selection: Selection, estimates: np.ndarray, scene: Scene) -> Selection:
    """A selection whose eliminated keys are compensated by their estimated scores, which are capped in place."""
    return replace(selection, tail=cap(estimates, scene.softcap))


def log_mass(estimates: np.ndarray, scene: Scene) -> np.ndarray:
    """Estimated log mass ``s_hat - lse`` of cold keys; float32, shape [group, queries, tokens].

    lse is the log-sum-exp of the estimates of cold keys and the exact scores of the others. Valid until the next call
    for this scene.
    """
    start, stop = scene.visible.start, scene.visible.stop
    weights = scene._spare
    peak = np.maximum(_cold_peak(estimates, start, stop), scene.known_lse)
    with np.errstate(over="ignore"):
        np.exp(np.subtract(estimates, peak[..., None], out=weights), out=weights)
    total = _cold_sum(weights, start, stop) + np.exp(scene.known_lse - peak)
    return np.subtract(estimates, (peak + np.log(total)).astype(np.float32)[..., None], out=weights)


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
