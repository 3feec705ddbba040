"""Bounds of scores from nested records, which are read level by level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ghostkv.codecs.base import Decoded
from ghostkv.codecs.nested import Nested
from ghostkv.elimination.attention import cap
from ghostkv.elimination.bounds import TINY
from ghostkv.elimination.truth import Truth
from ghostkv.files.compiled import njit


def read_levels(
    codec: Nested,
    levels: Iterable[Decoded],
    queries: np.ndarray,
    scale: float,
    softcap: float,
    bounds: tuple[np.ndarray, np.ndarray],
    estimates: np.ndarray,
) -> Iterator[Decoded]:
    """Read nested records level by level, each level's bounds within those of the levels before.

    Parameters
    ----------
    levels : iterable of Decoded
        The records as each level of the codec reads them, as `Nested.decode_levels` gives them.
    queries : ndarray of float32, shape [..., head_dim]
    bounds : pair of ndarray of float32, shape [levels, ..., keys]
        Lower and upper, filled one level at each step.
    estimates : ndarray of float32, shape [..., keys]
        Holds the level's own scores at each step.
    """
    flat = queries.reshape(-1, queries.shape[-1])
    estimates = estimates.reshape(len(flat), -1)
    projected = codec.project(flat)
    weight = projected.weight(scale)
    known = np.full(estimates.shape, -np.inf, np.float32), np.full(estimates.shape, np.inf, np.float32)
    for level, decoded in enumerate(levels):
        cap(codec.estimate(projected, decoded, scale, estimates), softcap)
        found = tuple(side[level].reshape(estimates.shape) for side in bounds)
        _narrow(estimates, weight, decoded.radius, projected.slack(scale, decoded), *known, *found)
        known = found
        yield decoded


@njit(cache=True, nogil=True, error_model="numpy")
def _narrow(estimates, weight, radius, slack, lower, upper, new_lower, new_upper):
    """Intersect known bounds with ``estimate -+ (weight * radius + slack)``.

    Parameters
    ----------
    lower, upper : ndarray of float32, shape [queries, keys]
        What was known; -inf and inf for nothing. Never NaN.
    new_lower, new_upper : ndarray of float32, shape [queries, keys]
        Where the result goes. Not a number counts as no bound.
    """
    for query in range(estimates.shape[0]):
        rounded = slack[query] + TINY
        for key in range(estimates.shape[1]):
            margin, estimate = weight[query] * radius[key] + rounded, estimates[query, key]
            low, high = estimate - margin, estimate + margin
            new_lower[query, key] = low if low > lower[query, key] else lower[query, key]
            new_upper[query, key] = high if high < upper[query, key] else upper[query, key]


def keep_in_full(lower: np.ndarray, upper: np.ndarray, truth: Truth, escaped: np.ndarray) -> None:
    """A key that the last planes do not bound is kept in float16: its last bounds, changed in place, are those of its exact score.

    Parameters
    ----------
    lower, upper : ndarray of float32, shape [levels, group, queries, keys]
    escaped : ndarray of bool, shape [keys]
    """
    lower[-1][..., escaped] = truth.low[..., escaped]
    upper[-1][..., escaped] = truth.high[..., escaped]
