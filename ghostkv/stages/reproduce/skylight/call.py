"""One call of attention as SkyLight (skylight-org/sparse-attention-hub, Apache-2.0) counts them: a query of all heads of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.elimination.attention import scores

# Sinks and local window of its configurations, and the context of its board.
FIXED, CONTEXT = 128, 32_768


@dataclass(frozen=True)
class CapturedCache:
    """One layer's keys and values of a text, and what an index may be built from before the first measured query."""

    capture: LayerCapture
    calibration: LayerCapture  # of a codec text, for what a method fits beforehand
    prefill: int  # keys before the first measured query
    rng: np.random.Generator

    @cached_property
    def keys(self) -> np.ndarray:
        """Float32 [kv_heads, tokens, head_dim]."""
        return self.capture.keys.astype(np.float32)

    @cached_property
    def values(self) -> np.ndarray:
        """Float32 [kv_heads, tokens, value_dim]."""
        return self.capture.values.astype(np.float32)


@dataclass(frozen=True)
class AttentionCall:
    """A query of all heads of a layer, and the keys that it sees.

    Attributes
    ----------
    first, last : int
        Keys first..last-1 are seen.
    fixed : int
        Sinks, and recent keys, that every method reads.
    """

    cache: CapturedCache
    query: int
    first: int
    last: int
    fixed: int

    @cached_property
    def queries(self) -> np.ndarray:
        """Float32 [heads, head_dim]."""
        return self.cache.capture.queries[:, self.query]

    @property
    def seen(self) -> int:
        return self.last - self.first

    def by_group(self, per_kv_head: np.ndarray) -> np.ndarray:
        """What a KV head has, shape [kv_heads, ...], for every query head: [heads, ...]."""
        return np.repeat(per_kv_head, self.cache.capture.group, axis=0)

    def grouped(self, per_head: np.ndarray) -> np.ndarray:
        """What a head has, shape [heads, ...], by KV head: [kv_heads, group, ...]."""
        capture = self.cache.capture
        return per_head.reshape(capture.kv_heads, capture.group, *per_head.shape[1:])

    @cached_property
    def scores(self) -> np.ndarray:
        """Exact scores of the keys that are seen, float32 [heads, seen]."""
        capture, keys = self.cache.capture, self.cache.keys[:, self.first : self.last]
        found = [
            scores(queries, keys[kv_head], capture.scale, capture.softcap)
            for kv_head, queries in enumerate(self.grouped(self.queries))
        ]
        return np.concatenate(found)

    @cached_property
    def weights(self) -> np.ndarray:
        """Exponentials of the scores, the largest of each head 1, float32 [heads, seen]."""
        return np.exp(self.scores - self.scores.max(axis=1, keepdims=True))

    @cached_property
    def kept(self) -> np.ndarray:
        """Sinks and local window, bool [seen]."""
        token = np.arange(self.seen)
        return (token < self.fixed) | (token >= self.seen - self.fixed)

    @cached_property
    def truth(self) -> np.ndarray:
        """Output of full attention, float64 [heads * value_dim]."""
        return self._output(self.weights)

    def _output(self, weights: np.ndarray) -> np.ndarray:
        values = self.cache.values[:, self.first : self.last]
        summed = np.matmul(self.grouped(weights), values).astype(np.float64)
        total = self.grouped(weights).sum(axis=2, dtype=np.float64)[..., None]
        # Where all that is read has weight 0 in float32, the output is 0.
        return (summed / np.maximum(total, np.finfo(np.float32).tiny)).ravel()

    def measured(self, inclusion: np.ndarray) -> tuple[float, float]:
        """Density and error of a selection: the share of keys that are read, and ||true - out|| / ||true|| over all heads.

        Parameters
        ----------
        inclusion : ndarray, shape [heads, seen]
            The probability with which a key that is read was to be read, whose inverse it weighs; 0 of those that are not read.
        """
        read = inclusion > 0
        weights = np.divide(self.weights, inclusion, out=np.zeros_like(self.weights), where=read)
        error = np.linalg.norm(self.truth - self._output(weights)) / np.linalg.norm(self.truth)
        return float(read.mean()), float(error)
