"""Methods of the board that sample keys and weigh them by the inverse of their probability: MagicPIG and vAttention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import ndtri

from ghostkv.stages.reproduce.skylight.call import AttentionCall, CapturedCache
from ghostkv.stages.reproduce.skylight.methods import BoardMethod, BoardSetting, with_largest

_TABLES, _PLANES = (4, 8, 16, 32, 64), 8
_BASE = 0.025
_HEAVY, _ERRORS = (0.01, 0.025, 0.05, 0.1), (0.05, 0.1, 0.2, 0.3)


class BoardMagicPig(BoardMethod):
    """Keys that share a bucket with the query in at least one of L tables of 8 random planes each.

    Keys and queries are centred on the mean key; keys get a coordinate that makes them all of one norm. The authors search 2 to 32
    planes and 16 to 128 tables: with fewer planes a table reads more than a fifth of the keys, and with more hardly any.
    """

    name = "magicpig"

    def __init__(self, cache: CapturedCache):
        super().__init__(cache)
        self._means = cache.keys[:, : cache.prefill].mean(axis=1, keepdims=True)
        self._keys = [self._augmented(keys) for keys in cache.keys - self._means]
        shape = (cache.keys.shape[2] + 1, _TABLES[-1] * _PLANES)
        self._planes = cache.rng.normal(size=shape).astype(np.float32)
        self._buckets = [self._hashed(keys) for keys in self._keys]

    def _augmented(self, keys: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(keys, axis=1, keepdims=True)
        most = norms.max()
        return np.concatenate([keys / most, np.sqrt(np.maximum(most**2 - norms**2, 0)) / most], axis=1)

    def _hashed(self, vectors: np.ndarray) -> np.ndarray:
        """Numbers of buckets, uint8 [vectors, tables]."""
        return np.packbits(vectors @ self._planes > 0, axis=1)

    def selections(
        self, call: AttentionCall, densities: Sequence[float]
    ) -> Iterator[tuple[BoardSetting, np.ndarray]]:
        queries = call.queries - call.by_group(self._means)[:, 0]
        queries = queries / (np.linalg.norm(queries, axis=1, keepdims=True) + 1e-8)
        queries = np.concatenate([queries, np.zeros_like(queries[:, :1])], axis=1)
        asked, seen, group = self._hashed(queries), slice(call.first, call.last), self.cache.capture.group
        # The first table in which a key meets the query; all keys have norm 1 now, and so have queries.
        meets, alike = [], []
        for head, buckets in enumerate(asked):
            same = self._buckets[head // group][seen] == buckets
            meets.append(np.where(same.any(axis=1), same.argmax(axis=1), len(buckets)))
            cosines = np.clip(self._keys[head // group][seen] @ queries[head], -1, 1)
            alike.append((1 - np.arccos(cosines) / np.pi) ** _PLANES)
        for tables in _TABLES:
            chance = 1 - (1 - np.stack(alike)) ** tables
            found = np.where(np.stack(meets) < tables, chance, 0.0)
            yield BoardSetting("", tables), np.where(call.kept, 1.0, found).astype(np.float32)


class BoardVAttention(BoardMethod):
    """Oracle top-k, and a sample of the rest so large that the denominator should err by eps with probability delta.

    A base sample estimates the spread of the rest. The authors search eps and delta apart; here they are equal, as the setting's
    value. Its variant is the share of the keys that top-k takes.
    """

    name = "vattention"

    def selections(
        self, call: AttentionCall, densities: Sequence[float]
    ) -> Iterator[tuple[BoardSetting, np.ndarray]]:
        start, stop = call.fixed, call.seen - call.fixed
        span, rng = stop - start, call.cache.rng
        base = max(2, int(_BASE * span))
        for heavy in _HEAVY:
            largest = with_largest(call, call.scores, int(heavy * call.seen))
            drawn = rng.integers(start, stop, (len(largest), base))
            spread = np.maximum(np.take_along_axis(call.weights, drawn, axis=1).std(axis=1, ddof=1), 1e-8)
            # A key that was drawn twice counts once, as in a mask.
            once = np.zeros(largest.shape, bool)
            np.put_along_axis(once, drawn, True, axis=1)
            total = (call.weights * largest).sum(axis=1) + (call.weights * once).sum(axis=1) * span / base
            for error in _ERRORS:
                wanted = (ndtri(1 - error) * spread * span / (error * total)) ** 2
                found = largest.copy()
                for row, budget in zip(found, np.clip(wanted.astype(np.int64), base, span), strict=True):
                    chosen = rng.integers(start, stop, budget)
                    row[chosen] = np.maximum(row[chosen], budget / span)
                yield BoardSetting(str(heavy), error), found
