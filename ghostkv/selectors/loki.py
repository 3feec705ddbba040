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
from ghostkv.selectors.base import Budget, Calibration, Scene, Selection, Selector, read_best


@dataclass(frozen=True)
class Loki(Selector):
    """Read the keys of best score in a few principal components."""

    dims: Width = 8  # components kept
    centred: bool = True  # components of the covariance; else of the second moment

    def fit(self, calibration: Calibration) -> Any:
        """The first principal components, shape [head_dim, dims]."""
        keys = calibration.keys.astype(np.float64)
        moment = np.cov(keys.T, bias=True) if self.centred else keys.T @ keys / len(keys)
        return np.linalg.eigh(moment)[1][:, ::-1][:, : self.dims].astype(np.float32)

    def select(self, fitted: Any, scene: Scene, budget: Budget) -> Selection:
        stored = (scene.keys @ fitted).astype(np.float16).astype(np.float32)
        priority = scene.score(scene.queries @ fitted, stored)
        index = scene.visible.cold * float(ELEMENT_BYTES * fitted.shape[1])
        return read_best(priority, scene, budget, index)
