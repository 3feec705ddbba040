"""Residual vector quantisation: a vector as a sum of centroids, one of each codebook."""

from __future__ import annotations

from dataclasses import dataclass

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

    def encode(self, points: np.ndarray) -> np.ndarray:
        """Centroids whose sum is near each point, by beam search; uint8 [points, stages]."""
        codes = np.empty((len(points), len(self.centroids)), np.uint8)
        # Centroids side by side, so that distances to all of them are computed at once.
        _search(
            np.asarray(points, np.float32),
            np.ascontiguousarray(self.centroids.transpose(0, 2, 1)),
            codes,
            BEAM,
        )
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
def _search(points, books, codes, beam):
    """Beam search in `books`, float32 [stages, dims, centroids]."""
    stages, dims, centroids = books.shape
    # What the sums that are carried leave of the point, and their codes; the same of the stage before.
    left, paths = np.empty((beam, dims), np.float32), np.empty((beam, stages), np.uint8)
    before, taken = np.empty_like(left), np.empty_like(paths)
    # The best sums found so far, best first: squared distance, sum that they extend, centroid.
    found, parent, chosen = np.empty(beam, np.float32), np.empty(beam, np.int64), np.empty(beam, np.int64)
    distance = np.empty(centroids, np.float32)
    for i in range(len(points)):
        alive = 1
        left[0] = points[i]
        for m in range(stages):
            held = 0
            for b in range(alive):
                distance[:] = np.float32(0.0)
                for d in range(dims):
                    here, row = left[b, d], books[m, d]
                    for c in range(centroids):
                        distance[c] += (here - row[c]) * (here - row[c])
                for c in range(centroids):
                    if held == beam and not distance[c] < found[held - 1]:
                        continue
                    held = min(held + 1, beam)
                    at = held - 1
                    while at > 0 and distance[c] < found[at - 1]:
                        found[at], parent[at], chosen[at] = found[at - 1], parent[at - 1], chosen[at - 1]
                        at -= 1
                    found[at], parent[at], chosen[at] = distance[c], b, c
            before[:alive], taken[:alive] = left[:alive], paths[:alive]
            for b in range(held):
                for d in range(dims):
                    left[b, d] = before[parent[b], d] - books[m, d, chosen[b]]
                paths[b, :m] = taken[parent[b], :m]
                paths[b, m] = chosen[b]
            alive = held
        codes[i] = paths[0]
