"""Attention over the keys that were read, with whatever stands for those that were not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ghostkv.elimination.compensation import cold_means, compensate, tail_weights
from ghostkv.runtime.call_views import CallView


class Combined(NamedTuple):
    """Outputs of float32 [group, queries, value_dim]: with what stands for the keys that were left, and without; and
    the part that tail compensation has in the first, float64 [group, queries]."""

    output: np.ndarray
    read: np.ndarray
    share: np.ndarray


def combine(
    scores: np.ndarray,
    kept: np.ndarray,
    left: np.ndarray,
    view: CallView,
    tail: np.ndarray | None = None,
    page: int = 0,
    log_weight: Sequence[np.ndarray] | None = None,
    tail_share: np.ndarray | None = None,
) -> Combined:
    """Attention over the kept keys, with a selection's own estimator for those that are left.

    Parameters
    ----------
    kept, left : ndarray of bool, shape [group, queries, keys]
        Keys that are read, and cold keys that are not.
    tail, page, log_weight, tail_share
        As in `Selection`.
    """
    logits = np.where(kept, scores, np.float32(-np.inf))
    if log_weight is not None:
        # A weight means something only where the key was read; elsewhere it may be whatever the division left.
        logits += np.where(view.visible.mask(len(view.keys)) & kept, log_weight[0], np.float32(0.0))
    peak = logits.max(axis=-1)
    weights = np.exp(logits - peak[..., None])
    mass = weights.sum(axis=-1, dtype=np.float64)
    total = weights @ view.values
    output = read = (total / mass[..., None]).astype(np.float32)
    share = np.zeros(mass.shape)
    if tail is not None:
        missing = np.where(left, tail_weights(tail, peak), np.float32(0.0))
        edges = np.arange(0, len(view.keys), page or len(view.keys))
        missing = np.add.reduceat(missing, edges, axis=-1, dtype=np.float64)
        share = missing.sum(axis=-1) / (mass + missing.sum(axis=-1))
        means = cold_means(view.values, view.visible, page)
        output = compensate(total, mass, missing, means).astype(np.float32)
    elif tail_share is not None:
        part = tail_share[0][..., None]
        output = ((1 - part) * read + part * cold_means(view.values, view.visible)[:, 0]).astype(np.float32)
    return Combined(output, read, share)
