"""MagicPIG: sample keys by locality-sensitive hashing and weigh them by their sampling probability.

Card
----
Paper: Chen et al. 2024, "MagicPIG: LSH sampling for efficient LLM generation".
Rule: sign hashes of `bits` random planes in L tables; a key is sampled when its hash equals the query's in at
    least two tables. With ``p = 1 - angle / pi`` its chance is ``u = 1 - (1 - p^b)^L - L p^b (1 - p^b)^(L-1)``,
    and the output is the self-normalised estimate with weights ``e^s / u``. Keys are centred first.
What differs: L is chosen per KV head and budget on texts of role `threshold`, up to `tables` (the paper takes
    one K and L per model); the mean key comes from role `codec` instead of the prompt. A budget that a text
    would exceed cuts the sample, the keys that collided latest first.
Index bytes: per query, head and table the two ends of a bucket (8 bytes) and the two-byte identity of every
    key in it. A group's heads look into different buckets, so the group pays the sum; a key that several heads
    sample is read once.
Columns: `alone` only; its estimator has no estimate of a key that no bucket met.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Annotated, Field
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import ALONE, Budget, Calibration, Scene, Selection, Selector, read_at
from ghostkv.selectors.picking import threshold_counts

_ENDS, _IDENTITY = 8, 2
_NEVER = np.uint8(255)


@dataclass(frozen=True)
class MagicPIG(Selector):
    """Read the keys that collide with the query in two tables."""

    bits: Annotated[int, Field(ge=1, le=16)] = 8  # planes per table, at most 16
    tables: Annotated[int, Field(ge=2, le=254)] = 128  # largest number of tables, at most 254
    weigh: bool = True  # importance weights in the output; False renormalises the sample as top-k methods do

    columns: ClassVar[tuple[str, ...]] = (ALONE,)

    def fit(self, calibration: Calibration) -> Any:
        """Mean key, planes, and tables L of each ratio."""
        mean = calibration.keys.mean(axis=0)
        rng = np.random.default_rng(calibration.seed)
        planes = rng.normal(size=(len(mean), self.tables * self.bits)).astype(np.float32)
        spent, texts = 0.0, 0
        for scene, budget in calibration.scenes:
            second, hits = self._collide(scene, mean, planes)
            visible = scene.visible
            sampled = _by_table(second.min(axis=0), visible.start, visible.stop, self.tables)
            ends = _ENDS * scene.shape[0] * np.arange(1, self.tables + 1)
            exact = (visible.visible - visible.cold)[:, None] * budget.pair_bytes
            read = exact + ends + _IDENTITY * hits.sum(axis=0) + budget.pair_bytes * sampled
            spent, texts = spent + (read / budget.full[:, None]).mean(axis=0), texts + 1
        cost = spent / texts
        return mean, planes, [int((cost <= ratio).sum()) for ratio in budget.ratios]

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        mean, planes, _ = fitted
        return float(ELEMENT_BYTES * (mean.size + planes.size))

    def select(self, fitted: Any, scene: Scene, budget: Budget, column: str) -> Selection:
        mean, planes, limits = fitted
        second, hits = self._collide(scene, mean, planes)
        visible, (group, queries, _) = scene.visible, scene.shape
        # The earlier a key collides for the second time, in any head, the surer it is read.
        statistic = -second.min(axis=0).astype(np.float32)
        counts, index = np.full((len(limits), queries), -1, np.int64), np.zeros((len(limits), queries))
        for r, tables in enumerate(limits):
            if tables < 2:
                continue
            index[r] = _ENDS * tables * group + _IDENTITY * hits[:, :, tables - 1].sum(axis=0)
            share = budget.at([budget.ratios[r]]).allowance(index[r]) / budget.full
            least, price = np.array([[1.0 - tables]], np.float32), budget.pair_bytes / budget.full
            counts[r] = threshold_counts(
                statistic[None], least, share, price, np.inf, visible.start, visible.stop
            )[0, 0]
        feasible = (counts >= 0).all(axis=1)
        counts[~feasible] = -1
        reads = scene.take(statistic, counts)
        weights = self._log_weights(scene, mean, second, limits, reads) if self.weigh else None
        return Selection(reads, feasible, index, log_weight=weights)

    def _collide(self, scene: Scene, mean: np.ndarray, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The table in which every key collides for the second time, and keys met in the first tables."""
        key_codes = self._codes(scene.keys - mean, planes)
        query_codes = self._codes(scene.queries.reshape(-1, len(mean)), planes)
        codes = query_codes.reshape(self.tables, *scene.shape[:2])
        return _second_collision(key_codes, codes, scene.visible.start, scene.visible.stop)

    def _codes(self, vectors: np.ndarray, planes: np.ndarray) -> np.ndarray:
        """Hash of every vector in every table, uint8 or, of more than 8 bits, uint16; shape [tables, vectors]."""
        signs = (vectors @ planes > 0).reshape(len(vectors), self.tables, self.bits)
        packed = np.packbits(signs, axis=2)
        if self.bits > 8:
            packed = packed.view(np.uint16)
        return np.ascontiguousarray(packed[..., 0].T)

    def _log_weights(
        self, scene: Scene, mean: np.ndarray, second: np.ndarray, limits: list[int], reads: np.ndarray
    ) -> np.ndarray:
        centred = scene.keys - mean
        norms = np.maximum(np.linalg.norm(centred, axis=1), 1e-30)
        lengths = np.maximum(np.linalg.norm(scene.queries, axis=2, keepdims=True), 1e-30)
        flat = (scene.queries / lengths).reshape(-1, len(mean))
        cosine = np.matmul(flat, (centred / norms[:, None]).T, out=scene.empty().reshape(-1, len(norms)))
        out = np.empty((len(limits), *scene.shape), np.float32)
        for r, tables in enumerate(limits):
            _weights(cosine.reshape(scene.shape), second, tables, self.bits, read_at(reads, r), out[r])
        return out


@njit(cache=True, nogil=True, error_model="numpy")
def _second_collision(key_codes, codes, start, stop):
    tables, group, queries = codes.shape
    second = np.full((group, queries, key_codes.shape[1]), _NEVER, np.uint8)
    hits = np.zeros((group, queries, tables))
    once = np.empty(key_codes.shape[1], np.uint8)
    for g in range(group):
        for q in range(queries):
            first, last = start[q], max(stop[q], start[q])
            row, seen, met = second[g, q, first:last], once[: last - first], 0
            seen[:] = 0
            for t in range(tables):
                line, code, here = key_codes[t, first:last], codes[t, g, q], np.uint8(t)
                count = 0
                for j in range(row.size):
                    equal = np.uint8(line[j] == code)
                    row[j] = min(row[j], here if equal & seen[j] else _NEVER)
                    seen[j] |= equal
                    count += equal
                met += count
                hits[g, q, t] = met
    return second, hits


@njit(cache=True, nogil=True, error_model="numpy")
def _by_table(second, start, stop, tables):
    """Keys sampled with the first 1, 2, ... tables, shape [queries, tables]."""
    out = np.zeros((second.shape[0], tables))
    for q in range(second.shape[0]):
        for j in range(start[q], stop[q]):
            if second[q, j] < tables:
                out[q, second[q, j]] += 1
        for t in range(1, tables):
            out[q, t] += out[q, t - 1]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _weights(cosine, second, tables, bits, read, out):
    """``-log u`` of the keys that are read and that a head itself sampled with the first `tables`."""
    for g in range(cosine.shape[0]):
        for q in range(cosine.shape[1]):
            for j in range(cosine.shape[2]):
                if not read[q, j]:
                    continue
                if second[g, q, j] >= tables:
                    out[g, q, j] = -np.inf
                    continue
                angle = np.arccos(min(max(cosine[g, q, j], np.float32(-1)), np.float32(1)))
                same = (1 - angle / np.pi) ** bits
                none = (1 - same) ** (tables - 1)
                chance = 1 - none * (1 - same) - tables * same * none
                out[g, q, j] = -np.log(max(chance, 1e-6))
