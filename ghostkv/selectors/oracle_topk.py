"""Oracle top-k: the keys of largest exact score.

Card
----
Paper: none; the ceiling of every method that reads a fixed number of keys per query and renormalises.
Rule: each query reads as many cold keys as its bytes buy, by exact score.
Index bytes: none, which no real method can have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ghostkv.selectors.base import Budget, Scene, Selection, Selector, read_best


@dataclass(frozen=True)
class OracleTopK(Selector):
    """Read the keys of largest exact score."""

    kind: ClassVar[str] = "oracle"

    def select(self, fitted: Any, scene: Scene, budget: Budget) -> Selection:
        return read_best(scene.scores, scene, budget)
