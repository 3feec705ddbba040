"""From per-query counts to the lab's quality and cost numbers."""

from __future__ import annotations

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.elimination.attention import MASS_95, MASS_99, TOP_K, ColdRange
from ghostkv.elimination.sweep import Sweep
from ghostkv.files.compiled import njit


def bytes_ratio(
    visible: ColdRange, survivors: np.ndarray, record_bytes: int, head_dim: int, value_dim: int
) -> np.ndarray:
    """Bytes read in one step over the bytes of the full fp16 K and V; float64 [..., queries, thetas].

    Every record is read, every survivor's K and V, and the K and V of sinks and hot window.

    Parameters
    ----------
    survivors : ndarray, shape [..., queries, thetas]
        Cold keys read: one head's, or the union over a group (records are then read once per KV head).
    head_dim, value_dim : int
        A capture without values counts values as wide as keys.
    """
    pair = ELEMENT_BYTES * (head_dim + (value_dim or head_dim))
    exact = (visible.visible - visible.cold)[:, None]
    return (visible.cold[:, None] * (record_bytes / pair) + survivors + exact) / visible.visible[:, None]


def relevant_counts(needed: np.ndarray, visible: ColdRange) -> dict[str, np.ndarray]:
    """How many needed keys each query has; arrays of shape [group, queries].

    `top_k` counts all relevant keys, `top_k_cold` those that are cold, `mass_95` and `mass_99` the fewest
    keys that hold that mass.
    """
    top = needed & TOP_K
    return {
        "top_k": np.count_nonzero(top, axis=-1),
        "top_k_cold": np.count_nonzero(top * visible.mask(needed.shape[-1]), axis=-1),
        "mass_95": np.count_nonzero(needed & MASS_95, axis=-1),
        "mass_99": np.count_nonzero(needed & MASS_99, axis=-1),
    }


def per_query(sweep: Sweep, relevant: dict[str, np.ndarray], visible: ColdRange) -> dict[str, np.ndarray]:
    """Rates of every query at every threshold; arrays of shape [group, queries, thetas]."""
    cold = np.maximum(visible.cold, 1)[:, None]
    return {
        "elimination": sweep.eliminated / cold,
        "fer": sweep.false / np.maximum(relevant["top_k"], 1)[..., None],
        "dropped_mass": sweep.mass,
        "lost_95": sweep.lost_95 / np.maximum(relevant["mass_95"], 1)[..., None],
        "lost_99": sweep.lost_99 / np.maximum(relevant["mass_99"], 1)[..., None],
    }


def upper_quantile(values: np.ndarray, share: float, axis: int) -> np.ndarray:
    """The smallest observed value that at least `share` of the values do not exceed (an order statistic)."""
    count = values.shape[axis]
    rank = min(max(int(np.ceil(share * count)) - 1, 0), count - 1)
    if rank == count - 1:  # the usual case of under 100 queries, and far cheaper than a partition
        return values.max(axis=axis)
    return np.take(np.partition(values, rank, axis=axis), rank, axis=axis)


# Sums may be reordered, but infinities mean something here.
@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def bound_errors(exact, estimates, weight, radius, slack, visible):
    """How good a codec's estimate is and whether its margin holds, over the cold keys.

    Parameters
    ----------
    exact, estimates : ndarray of float32, shape [group, queries, keys]
    weight : ndarray of float32, shape [group, queries]
    radius : ndarray of float32, shape [keys]
    slack : ndarray of float32, shape [group, queries]
        The margin of a pair is ``weight * radius + slack``.

    Returns
    -------
    tuple of float
        Pairs checked, violations (error above margin), sum of squared error, sum of margin, sum of scores,
        sum of squared scores; infinite margins count as checked and add nothing to the margin sum.
    """
    pairs, violations = 0, 0
    squared, margins, total, total_squared = 0.0, 0.0, 0.0, 0.0
    for g in range(exact.shape[0]):
        for q in range(exact.shape[1]):
            w, rounded, cold = weight[g, q], slack[g, q], slice(visible.start[q], visible.stop[q])
            truth, guess, reach = exact[g, q, cold], estimates[g, q, cold], radius[cold]
            pairs += truth.size
            for j in range(truth.size):
                score = np.float64(truth[j])
                error = score - np.float64(guess[j])
                margin = w * reach[j] + rounded
                # "not <=", so that what is not a number counts.
                violations += not (abs(error) <= margin)
                squared += error * error
                margins += margin if margin < np.inf else np.float32(0)
                total += score
                total_squared += score * score
    return pairs, violations, squared, margins, total, total_squared
