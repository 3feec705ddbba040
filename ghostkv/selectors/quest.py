"""Quest: pages whose box of keys could hold the largest score.

Card
----
Paper: Tang et al. 2024, "Quest: query-aware sparsity for efficient long-context LLM inference".
Rule: every page of consecutive tokens stores the least and the largest of each key component. For a query the
    box bounds every score of the page, ``max_k q.k <= sum_c max(q_c min_c, q_c max_c)``; pages are read whole
    in order of that bound until the budget is spent.
What differs: all layers are treated alike (the paper leaves the first two dense). A page that overlaps the sinks or
    the hot window costs only its cold keys, and of the last page that the budget opens the keys that it still affords
    are read. Heads of a KV head decide together, by the sum of the shares that their bounds would have. Where mass is
    estimated of pages that are left, it is by the middle of their box: its bound would claim too much.
Index bytes: two vectors per page that holds a cold key, once per KV head: in fp16, or in int8 with a scale and a zero in
    fp16 each. int8 is rounded outward, so that bounds hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Count
from ghostkv.elimination.attention import ColdRange
from ghostkv.selectors.base import Estimate, Scene, Selector


@dataclass(frozen=True)
class Quest(Selector):
    """Read whole pages by the bound of their box."""

    page: Count = 16  # tokens per page
    metadata: Literal["fp16", "int8"] = "fp16"  # type of the stored vectors

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        low, high = self.boxes(scene.keys)
        width = scene.keys.shape[1]
        vector = ELEMENT_BYTES * width if self.metadata == "fp16" else width + 2 * ELEMENT_BYTES
        index = runs_with_cold(scene.visible, self.page) * (2.0 * vector)
        scores = scene.empty()
        scores[...] = self._of_keys(bounds(scene, low, high), scene)
        middle = (scene.queries * np.float32(scene.scale)) @ ((low + high) / 2).T
        return Estimate(scores, index, tail=self._of_keys(middle, scene))

    def boxes(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stored ends of the components of the keys of every page, two arrays of shape [pages, head_dim]."""
        # Whole pages by shape, as reduceat takes the components of a key one by one; a last one that is not full by itself.
        whole = len(keys) // self.page * self.page
        pages = keys[:whole].reshape(-1, self.page, keys.shape[1])
        low, high = pages.min(axis=1), pages.max(axis=1)
        if whole < len(keys):
            rest = keys[whole:]
            low, high = np.vstack([low, rest.min(axis=0)]), np.vstack([high, rest.max(axis=0)])
        return (low, high) if self.metadata == "fp16" else (rounded_down(low), -rounded_down(-high))

    def _of_keys(self, pages: np.ndarray, scene: Scene) -> np.ndarray:
        return np.repeat(pages, self.page, axis=-1)[..., : scene.shape[2]]


def bounds(scene: Scene, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Upper bound of every page's scores, shape [group, queries, pages]."""
    queries = scene.queries * np.float32(scene.scale)
    return np.maximum(queries, 0) @ high.T + np.minimum(queries, 0) @ low.T


def rounded_down(vectors: np.ndarray) -> np.ndarray:
    """Every row in 256 levels of its own, none above what it stands for; float32 [pages, head_dim]."""
    least = vectors.min(axis=1, keepdims=True)
    zero = np.nextafter(least.astype(np.float16), np.float16(-np.inf)).astype(np.float32)
    step = (vectors.max(axis=1, keepdims=True) - zero) / 255
    step = np.nextafter(step.astype(np.float16), np.float16(np.inf)).astype(np.float32)
    codes = np.floor((vectors - zero) / step)
    # Where the division rounded up to the next level.
    codes -= zero + codes * step > vectors
    return zero + np.clip(codes, 0, 255) * step


def runs_with_cold(visible: ColdRange, length: int) -> np.ndarray:
    """Runs of so many consecutive tokens that hold a cold key of each query, shape [queries]."""
    return np.where(visible.cold > 0, (visible.stop - 1) // length - visible.start // length + 1, 0)
