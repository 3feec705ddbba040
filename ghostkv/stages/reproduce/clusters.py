"""Lloyd's k-means, as the index libraries of other works run it: a fixed number of rounds from sampled keys."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array


def nearest(keys: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The centre that is nearest to each key, int64 [keys]."""
    return np.argmin(np.square(centres).sum(axis=1) - 2 * (keys @ centres.T), axis=1)


def kmeans(keys: np.ndarray, count: int, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """Centres of clusters, float32 [count, width]; one that no key is nearest to stays where it was.

    Parameters
    ----------
    keys : ndarray of float32, shape [keys, width]
    count : int
        At most as many centres as there are keys.
    """
    count = min(count, len(keys))
    centres = keys[rng.choice(len(keys), count, replace=False)]
    for _ in range(rounds):
        owner = nearest(keys, centres)
        sizes = np.bincount(owner, minlength=count)
        members = csr_array(
            (np.ones(len(keys), np.float32), (owner, np.arange(len(keys)))), (count, len(keys))
        )
        centres = np.where(sizes[:, None] > 0, (members @ keys) / np.maximum(sizes, 1)[:, None], centres)
    return centres.astype(np.float32)
