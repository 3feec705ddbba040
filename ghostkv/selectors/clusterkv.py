"""ClusterKV: clusters of keys of like direction, the best of which are read whole.

Card
----
Paper: Liu et al. 2024, "ClusterKV: manipulating LLM KV cache in semantic space for recallable compression".
Rule: keys are clustered by k-means under cosine similarity, one cluster per `size` keys; a query scores the mean keys of the
    clusters, and clusters are read in order of that score until the budget is spent, the last one in part.
What differs: sinks are not clustered apart, and keys that come while decoding are clustered with the others instead of in
    clusters of their own: a query's last centroids are moved by keys that it does not see yet, which favours it. The
    paper assigns keys until nothing moves; here there are as many rounds as for RetroInfer. No cache of clusters on the
    GPU is modelled. Heads of a KV head decide together.
Index bytes: per cluster with a cold key one fp16 mean and 4 bytes for its place and size, and the two-byte identity of every
    key that is read, once per KV head.
"""

from __future__ import annotations

from dataclasses import dataclass

from ghostkv.config.options import Count
from ghostkv.selectors.base import Calibration, Estimate, Scene, Selector
from ghostkv.selectors.retroinfer import by_centroid, cluster

_IDENTITY = 2


@dataclass(frozen=True)
class ClusterKV(Selector):
    """Read the clusters of best mean key."""

    size: Count = 80  # mean keys per cluster

    def fit(self, calibration: Calibration) -> int:
        """Seed of the first centroids."""
        return calibration.seed

    def estimate(self, fitted: int, scene: Scene) -> Estimate:
        found = cluster(scene.keys, self.size, len(scene.keys), fitted, centred=False)
        return by_centroid(scene, *found, key_bytes=float(_IDENTITY))
