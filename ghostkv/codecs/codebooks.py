"""Residual vector quantisation: a vector as a sum of centroids, one of each codebook."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ghostkv.files.compiled import njit

# Centroids of a codebook: a stage takes one byte.
CENTROIDS = 256
# Sums that are carried from stage to stage of an encoding, and rounds of k-means and of refitting all codebooks together.
BEAM, _ROUNDS, _REFITS = 2, 5, 1
# Vectors that codebooks are fitted on.
_SAMPLE = 1 << 13


@dataclass(frozen=True)
class Codebooks:
    """Codebooks of all stages (additive quantisation, Babenko and Lempitsky 2014; residual in how they are fitted)."""

    centroids: np.ndarray  # float32 [stages, 256, dims]

    @classmethod
    def fit(cls, points: np.ndarray, stages: int, rng: np.random.Generator) -> Codebooks:
        """K-means on what the stages before leave, then least squares for each codebook given all others.

        Parameters
        ----------
        points : ndarray of float64, shape [points, dims]
            In a frame where squared error is what matters.
        """
        points = np.ascontiguousarray(points[:: max(1, -(-len(points) // _SAMPLE))], np.float32)
        left, books = points.copy(), np.zeros((stages, CENTROIDS, points.shape[1]), np.float32)
        for book in books:
            book[:] = _kmeans(left, rng)
            left -= book[nearest(left, book)]
        for _ in range(_REFITS if stages > 1 else 0):
            codes = cls(books.copy()).encode(points)
            left = points - cls(books).rebuild(codes)
            for stage, book in enumerate(books):
                left += book[codes[:, stage]]
                book[:] = _means(left, codes[:, stage], book)
                left -= book[codes[:, stage]]
        return cls(books)

    @cached_property
    def _products(self) -> np.ndarray:
        """Dot products of all centroids, float32 [stages, 256, stages, 256]."""
        flat = self.centroids.reshape(-1, self.centroids.shape[2])
        return (flat @ flat.T).reshape(*self.centroids.shape[:2], *self.centroids.shape[:2])

    def encode(self, points: np.ndarray) -> np.ndarray:
        """Centroids whose sum is near each point, by beam search; uint8 [points, stages]."""
        points = np.asarray(points, np.float32)
        flat = self.centroids.reshape(-1, self.centroids.shape[2])
        towards = (points @ flat.T).reshape(len(points), len(self.centroids), CENTROIDS)
        codes = np.empty((len(points), len(self.centroids)), np.uint8)
        _search(towards, self._products, codes, BEAM)
        return codes

    def rebuild(self, codes: np.ndarray) -> np.ndarray:
        """The sums of centroids that codes stand for, float32 [points, dims]."""
        total = np.zeros((len(codes), self.centroids.shape[2]), np.float32)
        for stage, book in enumerate(self.centroids):
            total += book[codes[:, stage]]
        return total


def nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index of the nearest centroid of every point."""
    half = (centroids**2).sum(axis=1) / 2
    return (points @ centroids.T - half).argmax(axis=1)


def _kmeans(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lloyd's algorithm from a random sample of the points."""
    centroids = points[rng.choice(len(points), CENTROIDS, replace=len(points) < CENTROIDS)]
    for _ in range(_ROUNDS):
        centroids = _means(points, nearest(points, centroids), centroids)
    return centroids


def _means(points: np.ndarray, cell: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Mean of the points of each cell; an empty cell keeps its centroid."""
    size, total = np.zeros(CENTROIDS), np.zeros(centroids.shape)
    _add(points, cell, size, total)
    return np.where(size[:, None] > 0, total / np.maximum(size, 1)[:, None], centroids).astype(np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def _add(points, cell, size, total):
    for i in range(len(points)):
        size[cell[i]] += 1.0
        for d in range(points.shape[1]):
            total[cell[i], d] += points[i, d]


@njit(cache=True, nogil=True, error_model="numpy")
def _search(towards, products, codes, beam):
    """Beam search; `towards` are products of points and centroids, `products` those of centroids."""
    stages, centroids = towards.shape[1], towards.shape[2]
    # A sum's squared distance from the point, less the point's own square.
    distance, paths = np.empty(beam, np.float32), np.empty((beam, stages), np.int64)
    found, parent, chosen = np.empty(beam, np.float32), np.empty(beam, np.int64), np.empty(beam, np.int64)
    before, row = np.empty((beam, stages), np.int64), np.empty(centroids, np.float32)
    for i in range(len(towards)):
        alive, distance[0] = 1, 0.0
        for m in range(stages):
            held = 0
            for b in range(alive):
                for c in range(centroids):
                    row[c] = distance[b] + products[m, c, m, c] - np.float32(2.0) * towards[i, m, c]
                for e in range(m):
                    other = products[e, paths[b, e], m]
                    for c in range(centroids):
                        row[c] += np.float32(2.0) * other[c]
                for c in range(centroids):
                    if held == beam and not row[c] < found[held - 1]:
                        continue
                    at = held if held < beam else beam - 1
                    while at > 0 and row[c] < found[at - 1]:
                        found[at], parent[at], chosen[at] = found[at - 1], parent[at - 1], chosen[at - 1]
                        at -= 1
                    found[at], parent[at], chosen[at] = row[c], b, c
                    held = min(held + 1, beam)
            before[:alive] = paths[:alive]
            for b in range(held):
                distance[b] = found[b]
                for e in range(m):
                    paths[b, e] = before[parent[b], e]
                paths[b, m] = chosen[b]
            alive = held
        for m in range(stages):
            codes[i, m] = paths[0, m]
