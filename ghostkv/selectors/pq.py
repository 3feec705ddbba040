"""Product quantisation of the keys, as in PQCache.

Card
----
Paper: Zhang et al. 2024, "PQCache: product quantization-based KVCache for long context LLM inference".
Rule: a key is cut into `parts`; each part is replaced by the nearest of 2^`bits` centroids (k-means); a query's
    approximate score is a sum of table look-ups, one per part; the best keys are read in full.
What differs: the codebooks come from texts of role `codec` and are constants of the model; the paper runs
    k-means on each prompt, whose codebook (2^bits x head_dim fp16) would have to be read on every step.
    No GPU cache of hot blocks is modelled.
Index bytes: parts x bits / 8 per cold key, once per KV head.
Calibration: codebooks on texts of role `codec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Annotated, Field, Pieces
from ghostkv.files.errors import ConfigError
from ghostkv.selectors.base import Calibration, Estimate, Scene, Selector

# Calibration keys and rounds of k-means: twice as many change output errors in the third digit.
_SAMPLE, _ROUNDS = 4096, 6


@dataclass(frozen=True)
class PQ(Selector):
    """Read the keys of best score under product quantisation."""

    parts: Pieces = 8  # pieces of a key; must divide head_dim
    bits: Annotated[int, Field(ge=1, le=16)] = 8  # log2 of the centroids per piece

    def fit(self, calibration: Calibration) -> Any:
        """Codebooks, shape [parts, centroids, head_dim / parts]."""
        width = calibration.keys.shape[1]
        if width % self.parts:
            raise ConfigError(
                f"peers.selectors: pq has parts {self.parts}, which does not divide head_dim {width}; "
                f"write parts: {next(parts for parts in range(self.parts, 0, -1) if width % parts == 0)}"
            )
        sample = calibration.keys[:: max(1, len(calibration.keys) // _SAMPLE)]
        rng = np.random.default_rng(calibration.seed)
        pieces = np.split(sample, self.parts, axis=1)
        return np.stack([_kmeans(piece, 1 << self.bits, rng) for piece in pieces])

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        return float(ELEMENT_BYTES * fitted.size)

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        pieces = np.split(scene.keys, self.parts, axis=1)
        stood_for = [book[_nearest(piece, book)] for piece, book in zip(pieces, fitted, strict=True)]
        scores = scene.score(scene.queries, np.concatenate(stood_for, axis=1))
        return Estimate(scores, scene.visible.cold * (self.parts * self.bits / 8))


def _nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index of the nearest centroid of every point."""
    half = (centroids**2).sum(axis=1) / 2
    return (points @ centroids.T - half).argmax(axis=1)


def _kmeans(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Lloyd's algorithm from a random sample of the points; an empty cell keeps its centroid."""
    points = np.ascontiguousarray(points, np.float32)
    centroids = points[rng.choice(len(points), count, replace=len(points) < count)]
    for _ in range(_ROUNDS):
        cell = _nearest(points, centroids)
        size = np.bincount(cell, minlength=count)
        total = np.stack([np.bincount(cell, column, minlength=count) for column in points.T], axis=1)
        centroids = np.where(size[:, None] > 0, total / np.maximum(size, 1)[:, None], centroids)
        centroids = centroids.astype(np.float32)
    return centroids
