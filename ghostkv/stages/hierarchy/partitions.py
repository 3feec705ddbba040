"""Ways to put keys into small clusters: contiguous pages, a ball tree, size-limited k-means.

A partition decides how tight a cluster's bound is and never whether it holds, so any of them may be approximate.
"""

from __future__ import annotations

import numpy as np

from ghostkv.files.compiled import njit

PARTITIONS = ("pages", "ball_tree", "kmeans")
# Lloyd rounds after the ball tree, and the largest cluster that they may leave, in mean sizes.
_ROUNDS, _LARGEST = 3, 2
# Points whose distances to all centres are held at once.
_SLAB = 1024


def partition(points: np.ndarray, leaf: int, kind: str) -> np.ndarray:
    """Cluster points.

    Parameters
    ----------
    points : ndarray, shape [points, dims]
        Keys in the codec's frame, in order of position.
    leaf : int
        Points a cluster: exactly so many in pages, at most in a ball tree, on average in k-means.
    kind : str
        One of `PARTITIONS`.

    Returns
    -------
    ndarray of int64, shape [points]
        Cluster of each point, numbered from 0 without gaps; deterministic.

    Raises
    ------
    ValueError
        The kind is unknown.
    """
    points = np.ascontiguousarray(points, np.float32)
    if kind == "pages":
        return np.arange(len(points)) // leaf
    if kind == "ball_tree":
        return ball_tree(points, leaf)
    if kind == "kmeans":
        return kmeans(points, leaf)
    raise ValueError(f"partition {kind!r}; accepted: {', '.join(PARTITIONS)}")


def ball_tree(points: np.ndarray, leaf: int) -> np.ndarray:
    """Leaves of a tree that halves its points along their widest direction (Omohundro 1989, top down)."""
    owner = np.zeros(len(points), np.int64)
    if len(points):
        _halve(np.ascontiguousarray(points, np.float32), leaf, owner)
    return owner


def kmeans(points: np.ndarray, leaf: int) -> np.ndarray:
    """Lloyd's algorithm from the leaves of a ball tree; clusters beyond twice the mean size are halved again.

    Starting from a balanced tree makes the result deterministic and needs few rounds.
    """
    owner = ball_tree(points, leaf)
    for _ in range(_ROUNDS):
        count = np.bincount(owner)
        centre = _sums(points, owner, len(count)) / np.maximum(count, 1)[:, None].astype(np.float32)
        owner = _nearest(points, centre)
        owner = np.unique(owner, return_inverse=True)[1]
    return _split_large(points, owner, leaf * _LARGEST)


def _nearest(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    half = 0.5 * (centre**2).sum(axis=1)
    owner = np.empty(len(points), np.int64)
    for first in range(0, len(points), _SLAB):
        near = points[first : first + _SLAB] @ centre.T
        near -= half
        owner[first : first + _SLAB] = near.argmax(axis=1)
    return owner


def _sums(points: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(count))
    return np.add.reduceat(points[order], starts, axis=0)


def _split_large(points: np.ndarray, owner: np.ndarray, largest: int) -> np.ndarray:
    """Halve what is larger than a cluster may be; the new parts come last."""
    count = np.bincount(owner)
    total = len(count)
    owner = owner.copy()
    for cluster in np.flatnonzero(count > largest):
        inside = np.flatnonzero(owner == cluster)
        part = ball_tree(points[inside], largest)
        owner[inside] = np.where(part == 0, cluster, total + part - 1)
        total += part.max()
    return owner


@njit(cache=True, nogil=True, error_model="numpy")
def _halve(points, leaf, owner):
    count, dims = points.shape
    order = np.arange(count)
    # Halves are whole numbers of leaves, so that leaves are full; a stack of ranges takes no recursion.
    low, high = np.empty(128, np.int64), np.empty(128, np.int64)
    low[0], high[0] = 0, count
    depth, found = 1, 0
    mean, axis, image = np.empty(dims, np.float32), np.empty(dims, np.float32), np.empty(dims, np.float32)
    while depth > 0:
        depth -= 1
        a, b = low[depth], high[depth]
        if b - a <= leaf:
            for i in range(a, b):
                owner[order[i]] = found
            found += 1
            continue
        mean[:] = 0
        for i in range(a, b):
            mean += points[order[i]]
        mean /= np.float32(b - a)
        far, widest = a, np.float32(-1)
        for i in range(a, b):
            away = np.float32(0)
            for d in range(dims):
                away += (points[order[i], d] - mean[d]) ** 2
            if away > widest:
                far, widest = i, away
        axis[:] = points[order[far]] - mean
        for _ in range(2):  # power iterations towards the widest direction
            image[:] = 0
            for i in range(a, b):
                dot = np.float32(0)
                for d in range(dims):
                    dot += (points[order[i], d] - mean[d]) * axis[d]
                for d in range(dims):
                    image[d] += dot * (points[order[i], d] - mean[d])
            norm = np.sqrt((image * image).sum())
            if norm > 0:
                axis[:] = image / norm
        place = np.empty(b - a, np.float32)
        for i in range(a, b):
            dot = np.float32(0)
            for d in range(dims):
                dot += (points[order[i], d] - mean[d]) * axis[d]
            place[i - a] = dot
        sorting = np.argsort(place, kind="mergesort")
        order[a:b] = order[a:b][sorting]
        leaves = (b - a + leaf - 1) // leaf
        middle = a + (leaves // 2) * leaf
        low[depth], high[depth] = middle, b
        low[depth + 1], high[depth + 1] = a, middle
        depth += 2
