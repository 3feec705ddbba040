"""RetroInfer: keys in clusters of a segment, whose centroids say what to read and what the rest weighs.

Card
----
Paper: Chen et al. 2025, "RetroInfer: a vector-storage approach for scalable long-context LLM inference".
Rule: keys of a segment are clustered by spherical k-means, after the mean key is taken off. A query scores the centroids,
    reads the best clusters whole (its retrieval zone), and gives every other cluster (its estimation zone) the
    mass ``size * exp(q.c)``, which by Jensen's inequality is never more than what its keys hold.
What differs: a cluster's mass goes to the running mean of V and not to the sum of its own V: the index here has no V of
    keys that are not read. The sums would double the index. The estimation zone is every cluster that is not read. It is
    part of the column `compensated` alone; in the other two its clusters count for nothing. A segment is clustered with those of
    its keys too that a query does not see yet, and the last centroids move with them, which favours it. Of a cluster only
    cold keys are read, and of the last one those that are still affordable. Heads of a KV head decide together.
Index bytes: per cluster with a cold key one fp16 centroid and 4 bytes for its place and size, once per KV head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Count
from ghostkv.elimination.attention import ColdRange
from ghostkv.selectors.base import Calibration, Estimate, Scene, Selector

# Of k-means; the paper takes 10.
_ROUNDS = 4
_PLACE = 4


@dataclass(frozen=True)
class RetroInfer(Selector):
    """Read the clusters of best centroid score."""

    size: Count = 16  # mean keys per cluster
    segment: Count = 8192  # keys that are clustered together

    def fit(self, calibration: Calibration) -> int:
        """Seed of the first centroids."""
        return calibration.seed

    def estimate(self, fitted: int, scene: Scene) -> Estimate:
        return by_centroid(scene, *cluster(scene.keys, self.size, self.segment, fitted))


def by_centroid(scene: Scene, owner: np.ndarray, centroids: np.ndarray, key_bytes: float = 0.0) -> Estimate:
    """Every key at the score of its cluster's centroid, and the centroids, places and sizes as the index."""
    scores = scene.empty()
    found = (scene.queries * np.float32(scene.scale)) @ centroids.T
    np.take(found, owner, axis=-1, out=scores)
    each = ELEMENT_BYTES * scene.keys.shape[1] + _PLACE
    return Estimate(scores, with_cold_keys(owner, scene.visible) * float(each), key_bytes)


def cluster(
    keys: np.ndarray, size: int, segment: int, seed: int, centred: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Spherical k-means of the keys of every segment, from which their mean is taken off if `centred`.

    Returns
    -------
    owner : ndarray of int64, shape [tokens]
    centroids : ndarray of float32, shape [clusters, head_dim]
        Mean of a cluster's keys, as fp16 holds it; of a cluster without a key, zero.
    """
    rng, owners, count = np.random.default_rng(seed), [], 0
    for start in range(0, len(keys), segment):
        part = keys[start : start + segment]
        directions = _unit(part - part.mean(axis=0) if centred else part)
        many = max(1, len(part) // size)
        owners.append(_spherical(directions, many, rng) + count)
        count += many
    owner = np.concatenate(owners)
    members = np.maximum(np.bincount(owner, minlength=count), 1)
    means = _sums(keys, owner, count) / members[:, None]
    return owner, means.astype(np.float16).astype(np.float32)


def with_cold_keys(owner: np.ndarray, visible: ColdRange) -> np.ndarray:
    """Clusters that hold a cold key of each query, int64 [queries]."""
    # A cluster is counted at the first of its keys that is cold: the one whose predecessor is not.
    order = np.argsort(owner, kind="stable")
    before = np.full(len(owner), -1)
    same = owner[order[1:]] == owner[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    return np.count_nonzero(visible.mask(len(owner)) & (before < visible.start[:, None]), axis=1)


def _spherical(directions: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Cluster of every direction, int64 [keys]; an empty cluster keeps its centre."""
    centres = directions[rng.choice(len(directions), count, replace=False)]
    for _ in range(_ROUNDS):
        owner = (directions @ centres.T).argmax(axis=1)
        sums = _sums(directions, owner, count)
        centres = np.where(np.any(sums, axis=1, keepdims=True), _unit(sums), centres).astype(np.float32)
    return (directions @ centres.T).argmax(axis=1)


def _sums(vectors: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Sum of each cluster's vectors, float64 [clusters, width]."""
    out = np.zeros((count, vectors.shape[1]))
    order = np.argsort(owner, kind="stable")
    first = np.flatnonzero(np.diff(owner[order], prepend=-1))
    out[owner[order[first]]] = np.add.reduceat(vectors[order], first, dtype=np.float64)
    return out


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30).astype(vectors.dtype)
