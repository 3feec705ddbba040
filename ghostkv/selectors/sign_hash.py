"""Sign hashing: a signature of a few bytes a key, compared with the query's.

Card
----
Paper: Desai et al. 2025, "HashAttention: semantic sparsity for faster inference"; "SOCKET: soft collision kernel
    estimator for sparse attention" (2026).
Rule: every key stores the signs of its projections on `bits` planes. `hamming`, as HashAttention: keys are read in
    order of the bits that agree with the query's signs. `soft`, as SOCKET: the bits are tables of `bits_per_table`; in each
    the query has a softmax over buckets with logits ``tanh(projection) . corner / tau``, and a key's score is the
    probability of its buckets, summed over tables.
What differs: HashAttention learns its mappings by training on the model's attention; here `learned` planes are found on
    texts of role `codec` without training: principal directions of the keys where queries look, turned by iterative
    quantisation (ITQ). SOCKET's planes are `random`. A query's projections are taken at unit length, and
    SOCKET's factor of the value's norm is left out. So that masses can be estimated, a rising map, fitted on texts of
    role `codec`, turns what a signature says into a mean score at unit length of query. Keys are taken less their mean.
Index bytes: bits / 8 per cold key, once per KV head.
Calibration: planes, mean key and map on texts of role `codec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Annotated, Field
from ghostkv.files.compiled import njit
from ghostkv.selectors.base import Calibration, Estimate, Scene, Selector

# Places of the map, calibration keys and queries that it is fitted on, and rounds of ITQ.
_CELLS, _KEYS, _QUERIES, _ROUNDS = 256, 2048, 256, 20


@dataclass(frozen=True)
class SignHash(Selector):
    """Read the keys whose signature agrees most with the query's."""

    bits: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 64  # of a signature
    planes: Literal["random", "learned"] = "learned"
    score: Literal["hamming", "soft"] = "hamming"
    bits_per_table: Literal[4, 8] = 8  # of `soft` alone
    tau: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 0.4  # temperature of `soft` alone

    def fit(self, calibration: Calibration) -> Any:
        """Mean key, planes of keys and of queries [head_dim, bits], and the map: its ends and its values."""
        mean, rng = calibration.keys.mean(axis=0), np.random.default_rng(calibration.seed)
        keys = calibration.keys[:: max(1, len(calibration.keys) // _KEYS)] - mean
        queries = _unit(calibration.queries.reshape(-1, len(mean)))
        queries = queries[:: max(1, len(queries) // _QUERIES)]
        if self.planes == "random":
            both = (rng.normal(size=(len(mean), self.bits)).astype(np.float32),) * 2
        else:
            both = _learned(keys, queries, self.bits, rng)
        found = self._says(keys @ both[0] > 0, queries @ both[1]).ravel()
        return mean, *both, _rising(found, (queries @ keys.T).ravel())

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        mean, keys, queries, (_, values) = fitted
        planes = keys.size + (0 if queries is keys else queries.size)
        return float(ELEMENT_BYTES * (mean.size + planes + values.size))

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        mean, key_planes, query_planes, (ends, values) = fitted
        flat = scene.queries.reshape(-1, len(mean))
        said = self._says((scene.keys - mean) @ key_planes > 0, _unit(flat) @ query_planes)
        lengths = np.linalg.norm(flat, axis=1) * np.float32(scene.scale)
        scores = scene.empty()
        _look_up(said, ends, values, lengths, flat @ (mean * scene.scale), scores.reshape(said.shape))
        return Estimate(scores, scene.visible.cold * (self.bits / 8))

    def _says(self, signs: np.ndarray, projected: np.ndarray) -> np.ndarray:
        """What signatures say of every key to every query, the larger the better, float32 [queries, keys]."""
        if self.score == "hamming":
            ours = np.where(projected > 0, np.float32(1), np.float32(-1))
            return ours @ np.where(signs, np.float32(1), np.float32(-1)).T
        width = self.bits_per_table
        corners = (np.arange(1 << width)[:, None] >> np.arange(width)) & 1
        tilt = np.tanh(projected).reshape(len(projected), -1, width) / np.float32(self.tau)
        logits = tilt @ (2 * corners - 1).astype(np.float32).T
        chance = np.exp(logits - logits.max(axis=-1, keepdims=True))
        chance /= chance.sum(axis=-1, keepdims=True)
        buckets = signs.reshape(len(signs), -1, width) @ (1 << np.arange(width))
        out = np.empty((len(projected), len(signs)), np.float32)
        _collide(chance.astype(np.float32), np.ascontiguousarray(buckets.T.astype(np.uint8)), out)
        # In logs, as a score is.
        return np.log(np.maximum(out, np.float32(1e-12)), out=out)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def _learned(
    keys: np.ndarray, queries: np.ndarray, bits: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Planes of keys and of queries, which keep ``q.k`` in as many directions as there are bits.

    Keys are stretched by the root of the queries' second moment and queries shrunk by it; of the stretched keys
    the principal directions are turned so that signs are nearest to them (ITQ). More bits than components are several turns.
    """
    size, spread = np.linalg.eigh(queries.T.astype(float) @ queries / len(queries))
    size = np.sqrt(np.maximum(size, size.max() * 1e-6))
    stretch, shrink = (spread * size) @ spread.T, (spread / size) @ spread.T
    stretched = keys @ stretch
    _, principal = np.linalg.eigh(stretched.T @ stretched)
    turned = []
    for first in range(0, bits, keys.shape[1]):
        directions = principal[:, ::-1][:, : min(keys.shape[1], bits - first)]
        seen, rotation = stretched @ directions, np.linalg.qr(rng.normal(size=(directions.shape[1],) * 2))[0]
        for _ in range(_ROUNDS):
            left, _, right = np.linalg.svd(seen.T @ np.sign(seen @ rotation))
            rotation = left @ right
        turned.append(directions @ rotation)
    planes = np.concatenate(turned, axis=1)
    # At unit variance of the queries' projections, as those on random planes have.
    ours = shrink @ planes
    ours /= np.maximum(np.std(queries @ ours, axis=0), 1e-30)
    return (stretch @ planes).astype(np.float32), ours.astype(np.float32)


def _rising(said: np.ndarray, score: np.ndarray) -> tuple[tuple[float, float], np.ndarray]:
    """Mean score at each of evenly spaced places of what signatures say, made to rise strictly (isotonic regression)."""
    ends = float(said.min()), max(float(said.max()), float(said.min()) + 1e-6)
    place = np.rint((said - ends[0]) * ((_CELLS - 1) / (ends[1] - ends[0]))).astype(np.int64)
    many = np.bincount(place, minlength=_CELLS)
    filled = np.flatnonzero(many)
    pools: list[list[float]] = []  # mean, weight, places
    for cell, total in zip(filled, np.bincount(place, score, _CELLS)[filled], strict=True):
        pools.append([total / many[cell], float(many[cell]), 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            mean, weight, places = pools.pop()
            before = pools[-1]
            before[0] = (before[0] * before[1] + mean * weight) / (before[1] + weight)
            before[1], before[2] = before[1] + weight, before[2] + places
    level = np.concatenate([np.full(int(places), mean) for mean, _, places in pools])
    values = np.interp(np.arange(_CELLS), filled, level)
    # What pooled keeps its order, by less than a score can tell.
    return ends, (values + np.arange(_CELLS) * 1e-6 * max(np.ptp(values), 1e-6)).astype(np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def _collide(chance, buckets, out):
    """Sum over tables of the query's probability of every key's bucket."""
    out[...] = 0
    for q in range(chance.shape[0]):
        for t in range(chance.shape[1]):
            odds, line, row = chance[q, t], buckets[t], out[q]
            for j in range(row.size):
                row[j] += odds[line[j]]


@njit(cache=True, nogil=True, error_model="numpy")
def _look_up(said, ends, values, lengths, offsets, out):
    """The map at what signatures say, times the query's length, plus its score with the mean key."""
    top = np.float32(values.size - 1)
    low, steps = np.float32(ends[0]), np.float32((values.size - 1) / (ends[1] - ends[0]))
    for q in range(out.shape[0]):
        for j in range(out.shape[1]):
            place = min(max((said[q, j] - low) * steps, np.float32(0)), top)
            cell = np.uint32(min(place, top - np.float32(1)))
            part = place - np.float32(cell)
            out[q, j] = offsets[q] + lengths[q] * (values[cell] * (1 - part) + values[cell + 1] * part)
