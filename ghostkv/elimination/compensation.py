"""Tail compensation: what was eliminated still has mass, and its values have a mean.

Attention over the survivors alone renormalises their softmax, as if the eliminated keys did not exist. Their
estimated scores say how much mass they hold; the mean of V says where that mass points on average:

    o_hat = (sum_kept e^s v + sum_E e^s_hat vbar) / (sum_kept e^s + sum_E e^s_hat).

The running mean of V over the cold keys is one vector that is updated as tokens come, so it costs no bytes
per token. SparQ (Ribar et al. 2024, section 3) reallocates mass to the same mean; here the share comes from
the ghost records' own scores.

``s_hat`` is the middle of the bounds that are known of a key: the estimate itself after one level, and never above
the deepest upper bound. Whoever compensates takes its weights from `tail_weights`.
"""

from __future__ import annotations

import numpy as np

from ghostkv.elimination.attention import ColdRange

# Weights are held within e^-46 and e^40 of all that is known exactly. Below, a key adds nothing that float32 sees.
# Above, the tail has the whole output to within 4e-18 either way, and sums and exponentials stay in float32.
LOWEST, HIGHEST = np.float32(-46.0), np.float32(40.0)
# With less of the softmax left than this, float32 masses no longer say what is left: the output counts as lost.
LEFT = 1e-5
# Scores that are known no better than to this many nats either way say nothing of the weights; their exponentials may overflow.
WIDEST = 60.0


def tail_weights(estimates: np.ndarray, reference: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """``e^(s_hat - c)`` of keys that may be eliminated; float32, shape [..., keys].

    Parameters
    ----------
    estimates : ndarray of float32, shape [..., keys]
    reference : ndarray, shape [...]
        ``c``: the log of a sum of exponentials of exact scores, or the largest of those scores. It divides what was
        read too, so it cancels.
    """
    weights = np.subtract(estimates, reference[..., None].astype(np.float32), out=out)
    np.clip(weights, LOWEST, HIGHEST, out=weights)
    return np.exp(weights, out=weights)


def compensate(
    kept_sum: np.ndarray, kept_mass: np.ndarray, tail_mass: np.ndarray, means: np.ndarray
) -> np.ndarray:
    """Attention output with the eliminated keys' estimated mass on means of V; [..., value_dim].

    Parameters
    ----------
    kept_sum : ndarray, shape [..., value_dim]
        ``sum e^(s - c) v`` over the keys that were read; any ``c``, the same in all three sums.
    kept_mass : ndarray, shape [...]
        ``sum e^(s - c)`` over the keys that were read.
    tail_mass : ndarray, shape [..., pages]
        ``sum e^(s_hat - c)`` over the eliminated keys of each page; zero where nothing is compensated.
    means : ndarray, shape [..., pages, value_dim]
        Mean of V over the cold keys of each page; one page is the running mean. Broadcasts.
    """
    tail = (tail_mass[..., None, :] @ means)[..., 0, :]
    return (kept_sum + tail) / (kept_mass + tail_mass.sum(axis=-1))[..., None]


def inexactness(scores: np.ndarray, margins: np.ndarray, values: np.ndarray, read: np.ndarray) -> np.ndarray:
    """How far ``read`` is at most from the same average with exact scores, shape [...]; docs/certificates.md, section 4.

    Parameters
    ----------
    scores : ndarray, shape [..., keys]
        ``s_hat`` of the keys that were read; -inf of the others.
    margins : ndarray, shape [..., keys]
        What each ``s_hat`` is off at most.
    values : ndarray, shape [keys, value_dim]
    read : ndarray, shape [..., value_dim]
        The mean of `values` with the weights ``e^s_hat``.
    """
    wide, centre = values.astype(np.float64), read.astype(np.float64)
    taken = scores > -np.inf
    weights = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    square = (wide**2).sum(axis=-1) - 2.0 * centre @ wide.T + (centre**2).sum(axis=-1)[..., None]
    # What cancellation may take is added, so that no distance comes out too small.
    distance = np.sqrt(np.maximum(square, 0.0) + 1e-12 * (wide**2).sum(axis=-1).max(initial=0.0))
    off = np.where(taken, margins, 0.0)
    clear = (off < WIDEST).all(axis=-1)
    off = np.minimum(off, WIDEST)
    moved = (weights * np.expm1(off) * distance).sum(axis=-1) / (weights * np.exp(-off)).sum(axis=-1)
    farthest = np.where(taken, distance, 0.0).max(axis=-1)
    return np.where(clear, np.minimum(moved, farthest), farthest)


def output_bound(
    dropped: np.ndarray,
    share: np.ndarray,
    largest: np.ndarray,
    read: np.ndarray,
    means: np.ndarray,
    inexact: np.ndarray | float = 0.0,
) -> np.ndarray:
    """The most that ``||o - o_hat||`` can be, shape [...]; derived in docs/certificates.md, section 4.

    Parameters
    ----------
    dropped : ndarray, shape [...]
        What the softmax mass of the eliminated keys is at most.
    share : ndarray, shape [...]
        The tail's part of ``o_hat``: ``tail / (kept + tail)``; 0 without compensation.
    largest : ndarray, shape [...]
        The largest norm of an eliminated V.
    read, means : ndarray, shape [..., value_dim]
        The output over the keys that were read, and what the tail was given instead of V.
    inexact : ndarray or float, shape [...]
        How far `read` is at most from the output over the same keys with exact scores.
    """
    m, t = dropped[..., None], share[..., None]
    nothing_lost = share * np.linalg.norm(read - means, axis=-1)
    all_lost = dropped * largest + np.linalg.norm((m - t) * read + t * means, axis=-1)
    return np.maximum(nothing_lost, all_lost) + inexact


def running_sums(values: np.ndarray) -> np.ndarray:
    """Sum of V over all keys before each, and over all; float64 [tokens + 1, value_dim]."""
    total = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, dtype=np.float64, out=total[1:])
    return total


def cold_means(
    values: np.ndarray, visible: ColdRange, page: int = 0, total: np.ndarray | None = None
) -> np.ndarray:
    """Mean of V over the cold keys that each query has behind it, whole or by page.

    Parameters
    ----------
    values : ndarray of float32, shape [tokens, value_dim]
    page : int
        Keys per page, counted from token 0; 0 for one running mean.
    total : ndarray, optional
        `running_sums` of `values`, where they are known.

    Returns
    -------
    ndarray of float32, shape [queries, pages, value_dim]
        Pages without a cold key are zero.
    """
    total = running_sums(values) if total is None else total
    size = page or len(values)
    edges = np.arange(-(-len(values) // size)) * size
    low = np.maximum(edges[None, :], visible.start[:, None])
    high = np.minimum(edges[None, :] + size, visible.stop[:, None])
    count = np.maximum(high - low, 0)
    high = np.maximum(high, low)
    low, high = np.minimum(low, len(values)), np.minimum(high, len(values))
    return ((total[high] - total[low]) / np.maximum(count, 1)[..., None]).astype(np.float32)
