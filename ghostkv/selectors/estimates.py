"""From estimated scores to estimated mass."""

from __future__ import annotations

import numpy as np

from ghostkv.files.compiled import njit
from ghostkv.selectors.base import Scene

# A score that holds no mass beside any other; finite, so that differences are.
_NOTHING = -1e4


def scores_of_mass(mass: np.ndarray, scene: Scene) -> np.ndarray:
    """Scores under which the cold keys would hold these shares of the softmax; in place, shape [group, queries, tokens].

    For rules that know of attention by having observed it. Shares that leave nothing to the keys that are always kept
    are cut to leave them a thousandth.
    """
    share = _cold_sum(mass, scene.visible.start, scene.visible.stop)
    left = np.maximum(1.0 - share, 1e-3)
    with np.errstate(divide="ignore"):
        np.log(mass, out=mass)
    mass += (scene.known_lse - np.log(left)).astype(np.float32)[..., None]
    return np.maximum(mass, np.float32(_NOTHING), out=mass)


def group_mass(estimates: np.ndarray, scene: Scene) -> np.ndarray:
    """Log of the sum over the heads of the estimated shares of a key; float32, shape [queries, tokens]."""
    every = log_mass(estimates, scene)
    if len(every) == 1:
        return every[0].copy()
    # Of keys that no query sees scores may be -inf.
    peak = np.maximum(every.max(axis=0), np.float32(_NOTHING))
    with np.errstate(under="ignore", divide="ignore"):
        total = np.exp(every - peak).sum(axis=0)
        return peak + np.log(total, out=total)


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
