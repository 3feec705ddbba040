"""Upper and lower bounds of scores, whatever they come from, behind one interface.

A *bounder* writes an index of one KV head's keys and then bounds every score from it: `write(keys)`, then
`bounds(queries, scale)`, at `record_bytes` per key. Any codec is one (estimate and margin). `ghostkv.stages.certificates.bounders`
holds others: boxes around pages, balls and cones around clusters, low-bit keys.

Every bound holds for the score in real arithmetic and for any float32 evaluation of it: all add `slack`, derived in
docs/certificates.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ghostkv.codecs import Codec
from ghostkv.codecs.base import UNIT_ROUNDOFF
from ghostkv.files.compiled import njit

# Added to every margin: products that vanish in float32 are below it, scores that matter are far above.
TINY = np.float32(2.0**-100)


@dataclass(frozen=True)
class Bounds:
    """Scores lie in ``lower..upper``; float32 arrays of shape [queries, keys]."""

    lower: np.ndarray
    upper: np.ndarray


class Bounder(Protocol):
    """What every source of bounds offers."""

    name: str

    @property
    def record_bytes(self) -> float:
        """Index bytes per key."""

    def write(self, keys: np.ndarray) -> Bounder:
        """Index the keys of one KV head, float16 of shape [keys, head_dim]; returns self."""

    def bounds(self, queries: np.ndarray, scale: float) -> Bounds:
        """Bounds of ``scale * q.k`` for queries of shape [queries, head_dim] against every key."""


def score_slack(queries: np.ndarray, key_norms: np.ndarray, scale: float, terms: int) -> np.ndarray:
    """What a float32 dot product of `terms` products can be off, shape [queries, keys].

    ``|fl(q.k) - q.k| <= n u / (1 - n u) sum |q_i k_i| <= n u ||q|| ||k||`` (Higham 2002, section 3.1); 16 more terms
    stand for scaling, soft cap and the rounding of the slack itself.
    """
    norms = np.linalg.norm(queries.astype(np.float64), axis=1) * (abs(scale) * (terms + 16) * UNIT_ROUNDOFF)
    with np.errstate(over="ignore"):
        return np.outer(norms.astype(np.float32), np.asarray(key_norms, np.float32)) + TINY


def from_estimates(estimates: np.ndarray, margin: np.ndarray) -> Bounds:
    """Estimate minus and plus margin; a margin that is infinite or not a number bounds nothing."""
    with np.errstate(invalid="ignore", over="ignore"):
        lower, upper = estimates - margin, estimates + margin
    return Bounds(
        np.where(np.isnan(lower), -np.inf, lower).astype(np.float32),
        np.where(np.isnan(upper), np.inf, upper).astype(np.float32),
    )


@dataclass
class CodecBounds:
    """A fitted codec as a bounder: Cauchy-Schwarz in the codec's own frame."""

    codec: Codec

    @property
    def name(self) -> str:
        return f"{self.codec.name}_{self.codec.code_bytes}"

    @property
    def record_bytes(self) -> float:
        return float(self.codec.record_bytes)

    def write(self, keys: np.ndarray) -> CodecBounds:
        self.decoded_ = self.codec.decode(self.codec.encode(keys))
        return self

    def bounds(self, queries: np.ndarray, scale: float) -> Bounds:
        projected = self.codec.project(queries)
        estimates = self.codec.estimate(projected, self.decoded_, scale)
        return from_estimates(estimates, self.codec.margins(projected, self.decoded_, scale))


@njit(cache=True, nogil=True, error_model="numpy")
def count_violations(scores, lower, upper, start, stop):
    """Pairs of query and cold key checked, and those whose score lies outside its bounds.

    Parameters
    ----------
    scores, lower, upper : ndarray of float32, shape [group, queries, keys]
    start, stop : ndarray of int64, shape [queries]
    """
    pairs, violations = 0, 0
    for g in range(scores.shape[0]):
        for q in range(scores.shape[1]):
            for j in range(start[q], stop[q]):
                # "not within", so that what is not a number counts.
                violations += not (lower[g, q, j] <= scores[g, q, j] <= upper[g, q, j])
            pairs += max(stop[q] - start[q], 0)
    return pairs, violations
