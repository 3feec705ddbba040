"""Oracle top-k: the keys of largest exact score.

Card
----
Paper: none; the ceiling of every method that reads a fixed number of keys per query and renormalises.
Rule: each query reads as many cold keys as its bytes buy, those of largest exact mass over the heads of the group.
Index bytes: none, which no real method can have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ghostkv.selectors.base import Estimate, Scene, Selector


@dataclass(frozen=True)
class OracleTopK(Selector):
    """Read the keys of largest exact score."""

    kind: ClassVar[str] = "oracle"

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        scores = scene.empty()
        np.copyto(scores, scene.scores)
        return Estimate(scores, capped=True)
