"""Louver: clusters whose ball could reach a threshold, so that no key above it is missed.

Card
----
Paper: "Louver", arXiv 2605.06763 (2026).
Rule: k-means groups the keys; a cluster keeps its centroid c and its radius, the largest distance of a key from it. For
    a query ``q.c + |q| radius`` bounds every score of the cluster. Keys of clusters whose bound reaches a threshold are
    candidates: their K is read, and of those whose exact score reaches it V too. No key above the threshold is missed.
What differs: the paper's threshold is the exact k-th largest score, which nobody knows before reading the keys. Here it
    is one that can be known: a distance from the log-sum-exp of the exact scores of sinks and hot window, chosen
    per KV head and budget on texts of role `threshold`; an account makes the budget hard, and with a fixed budget a
    query, `alone`, there is none. Heads of a KV head decide together: a cluster is opened, or a key kept, when it reaches the
    threshold of any. Candidates are counted. `keys_per_cluster` is 4 in the paper, whose centroids alone are an eighth
    of the cache. _ClustersOfKeys are found once, over all keys of a text, later ones too, which favours it. Mass of keys
    that are left is estimated from their centroid.
Index bytes: an fp16 centroid, a radius and an offset, of two bytes each, per cluster that holds a cold key; K of every
    candidate. A key that is kept pays its K once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Count
from ghostkv.elimination.attention import cap
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import ALONE, COMPENSATED, Budget, Calibration, Scene, Selection, Selector
from ghostkv.selectors.picking import ThresholdHistogram
from ghostkv.selectors.pq import _kmeans, _nearest
from ghostkv.selectors.token_picker import HIGH, LOW, progress


@dataclass(frozen=True)
class Louver(Selector):
    """Read all keys whose score reaches a threshold, and the keys of every cluster that could hold one."""

    keys_per_cluster: Count = 32  # in the mean

    budgeted: ClassVar[bool] = True

    def fit(self, calibration: Calibration) -> Any:
        """Least distance of a score from what is known, of each ratio."""
        histogram, totals = ThresholdHistogram(LOW, HIGH), 0.0
        for scene, budget in calibration.scenes:
            clusters = self._clusters(scene)
            for bound, cost in zip(self._reaches(scene, clusters), _costs(scene, budget), strict=True):
                histogram.add(bound[None], scene.visible.start, scene.visible.stop, cost / budget.full)
            totals = totals + self._share(scene, budget, clusters).sum(axis=1)
        return histogram.theta(totals)[:, 0]

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        # One threshold, of the budget that is in use.
        return float(ELEMENT_BYTES)

    def select(self, fitted: Any, scene: Scene, budget: Budget, column: str) -> Selection:
        clusters, (start, stop) = self._clusters(scene), (scene.visible.start, scene.visible.stop)
        share, reaches = self._share(scene, budget, clusters), self._reaches(scene, clusters)
        depth = 0.0 if column == ALONE else 1.0
        costs = _costs(scene, budget)
        spent, kept, cut = progress(reaches, costs, budget.full, fitted, share, depth, start, stop)
        index = spent + self._index(scene, clusters) - kept * budget.pair_bytes
        tail = None
        if column == COMPENSATED:
            tail = cap(scene.score(scene.queries, clusters.centroids[clusters.of_key]), scene.softcap)
        return Selection(scene.take_above(reaches[-1], cut), ~np.isnan(share[:, 0]), index, tail)

    def _clusters(self, scene: Scene) -> _ClustersOfKeys:
        """K-means over the keys of a text."""
        count = max(1, len(scene.keys) // self.keys_per_cluster)
        found = _kmeans(scene.keys, count, np.random.default_rng(count))
        centroids = found.astype(np.float16).astype(np.float32)
        of_key = _nearest(scene.keys, centroids)
        radius = np.zeros(count, np.float32)
        np.maximum.at(radius, of_key, np.linalg.norm(scene.keys - centroids[of_key], axis=1))
        # Rounded up to what two bytes hold.
        return _ClustersOfKeys(centroids, np.nextafter(radius.astype(np.float16), np.float16(np.inf)), of_key)

    def _reaches(self, scene: Scene, clusters: _ClustersOfKeys) -> tuple[np.ndarray, np.ndarray]:
        """Bound and exact score of every key over what is known, the largest of the heads; float32 [queries, tokens]."""
        queries = scene.queries * np.float32(scene.scale)
        slack = np.linalg.norm(queries, axis=2, keepdims=True) * clusters.radius.astype(np.float32)
        known = scene.known_lse[..., None]
        bound = (cap(queries @ clusters.centroids.T + slack, scene.softcap) - known).max(axis=0)
        exact = (cap(scene.score(scene.queries, scene.keys), scene.softcap) - known).max(axis=0)
        # Rounding must not put a key above its bound.
        return np.maximum(bound[:, clusters.of_key], exact), exact

    def _index(self, scene: Scene, clusters: _ClustersOfKeys) -> np.ndarray:
        """Bytes of the clusters that hold a cold key, float64 [queries]."""
        held = _held(clusters.of_key, len(clusters.centroids), scene.visible.start, scene.visible.stop)
        return held * float(ELEMENT_BYTES * (scene.keys.shape[1] + 2))

    def _share(self, scene: Scene, budget: Budget, clusters: _ClustersOfKeys) -> np.ndarray:
        return budget.allowance(self._index(scene, clusters)) / budget.full


@dataclass(frozen=True)
class _ClustersOfKeys:
    """A partition of the keys into balls."""

    centroids: np.ndarray  # float32 [clusters, head_dim]; as fp16 holds them
    radius: np.ndarray  # float16 [clusters]; no key of a cluster is farther from its centroid
    of_key: np.ndarray  # int64 [tokens]


def _costs(scene: Scene, budget: Budget) -> np.ndarray:
    """Bytes of one key and of one value."""
    key = float(ELEMENT_BYTES * scene.keys.shape[1])
    return np.array([key, budget.pair_bytes - key])


@njit(cache=True, nogil=True, error_model="numpy")
def _held(of_key, clusters, start, stop):
    out, seen = np.zeros(start.size), np.full(clusters, -1)
    for q in range(start.size):
        for j in range(start[q], stop[q]):
            if seen[of_key[j]] != q:
                seen[of_key[j]] = q
                out[q] += 1
    return out
