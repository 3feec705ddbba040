"""ShadowKV: a mean key stands for each chunk, and chunks that it stands for badly are kept exactly.

Card
----
Paper: Sun et al. 2024, "ShadowKV: KV cache in shadows for high-throughput long-context LLM inference".
Rule: keys with positions applied are cut into chunks of consecutive tokens; the landmark of a chunk is the mean of its keys.
    Chunks whose keys have the lowest least cosine with their landmark are outliers, and stay exact. A query scores
    the landmarks, and chunks are read whole in order of that score.
What differs: the landmarks alone. The paper also keeps keys before positions in low rank, in place of K; here K is read in
    fp16. It marks outliers once, after the prompt; here a query's outliers are those of the cold chunks that it sees. The
    keys of outliers are in the index, so their scores are known; a key of theirs that is attended to is paid for again
    with its V. Heads of a KV head decide together by the sum of their shares, where the paper takes the largest. A chunk that overlaps
    the sinks or the hot window costs only its cold keys, and of the last chunk the keys that are still affordable are read.
Index bytes: one fp16 vector per chunk that holds a cold key, and the fp16 keys of `outliers` chunks, once per KV head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Count, Whole
from ghostkv.elimination.attention import ColdRange
from ghostkv.selectors.base import Estimate, Scene, Selector


@dataclass(frozen=True)
class ShadowKV(Selector):
    """Read whole chunks by the score of their mean key."""

    chunk: Count = 8  # tokens per landmark
    outliers: Whole = 4  # chunks that stay exact

    def estimate(self, fitted: None, scene: Scene) -> Estimate:
        marks, cosines = self.landmarks(scene.keys)
        scores = scene.score(scene.queries, scene.keys)
        chunks = (scene.queries * np.float32(scene.scale)) @ marks.T
        first, count = self._chunks(scene.visible)
        vectors = count.astype(float)
        for q, (low, many) in enumerate(zip(first, count, strict=True)):
            order = np.argsort(cosines[low : low + many], kind="stable") + low
            exact = order[: self.outliers]
            kept = scores[:, q]
            spans = [slice(c * self.chunk, (c + 1) * self.chunk) for c in exact]
            known = [kept[:, span].copy() for span in spans]
            kept[...] = np.repeat(chunks[:, q], self.chunk, axis=-1)[:, : scene.shape[2]]
            for span, values in zip(spans, known, strict=True):
                kept[:, span] = values
                vectors[q] += values.shape[1]
        return Estimate(scores, vectors * (ELEMENT_BYTES * scene.keys.shape[1]))

    def landmarks(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean key of every chunk as fp16 holds it, float32 [chunks, head_dim], and the least cosine of a key with it."""
        starts = np.arange(0, len(keys), self.chunk)
        sizes = np.diff(np.append(starts, len(keys)))
        marks = np.add.reduceat(keys, starts) / sizes[:, None].astype(np.float32)
        marks = marks.astype(np.float16).astype(np.float32)
        mine = np.repeat(marks, sizes, axis=0)
        lengths = np.linalg.norm(keys, axis=1) * np.linalg.norm(mine, axis=1)
        cosines = (keys * mine).sum(axis=1) / np.maximum(lengths, 1e-30)
        return marks, np.minimum.reduceat(cosines, starts)

    def _chunks(self, visible: ColdRange) -> tuple[np.ndarray, np.ndarray]:
        """First chunk that holds a cold key, and how many do."""
        first = visible.start // self.chunk
        return first, np.where(visible.cold > 0, (visible.stop - 1) // self.chunk - first + 1, 0)
