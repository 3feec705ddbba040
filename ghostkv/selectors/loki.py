"""Loki: scores in the first principal components of the keys.

Card
----
Paper: Singhania et al. 2024, "Loki: low-rank keys for efficient sparse attention".
Rule: keys are rotated to their principal components, fitted offline; the first `dims` components of query and
    key give an approximate score, the best keys are read in full.
What differs: nothing in the rule; the components are of post-RoPE keys (the paper finds either better by
    model). A constant shift of all keys changes no order, which speaks for centred keys, but in some layers
    the direction of the mean is also one that scores vary along: `centred: false` takes components of the
    second moment, and both are compared.
Index bytes: `dims` fp16 components per cold key, once per KV head. They are part of the stored key in the
    paper's kernel too, which reads the chosen keys again in full.
Calibration: the rotation on texts of role `codec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Width
from ghostkv.selectors.base import Calibration, Estimate, Scene, Selector


@dataclass(frozen=True)
class Loki(Selector):
    """Read the keys of best score in a few principal components."""

    dims: Width = 8  # components kept
    centred: bool = True  # components of the covariance; else of the second moment

    def fit(self, calibration: Calibration) -> Any:
        """The first principal components, shape [head_dim, dims], and the mean key without them."""
        keys = calibration.keys.astype(np.float64)
        moment = np.cov(keys.T, bias=True) if self.centred else keys.T @ keys / len(keys)
        first = np.linalg.eigh(moment)[1][:, ::-1][:, : self.dims].astype(np.float32)
        mean = calibration.keys.mean(axis=0)
        return first, mean - first @ (first.T @ mean)

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        return float(ELEMENT_BYTES * sum(one.size for one in fitted))

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        first, rest = fitted
        stored = (scene.keys @ first).astype(np.float16).astype(np.float32)
        scores = scene.score(scene.queries @ first, stored)
        # The other components at their mean: a constant of the query, so that scores have the right level for masses.
        scores += (scene.queries @ (rest * np.float32(scene.scale)))[..., None]
        return Estimate(scores, scene.visible.cold * float(ELEMENT_BYTES * first.shape[1]))
