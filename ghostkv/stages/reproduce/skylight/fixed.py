"""Methods of the board that choose keys and weigh them alike: oracles, PQCache, Double Sparsity, Quest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ghostkv.stages.reproduce.clusters import kmeans, nearest
from ghostkv.stages.reproduce.skylight.call import AttentionCall, CapturedCache
from ghostkv.stages.reproduce.skylight.methods import (
    INDEX_BITS,
    BoardMethod,
    BoardSetting,
    BoardTopKMethod,
    pseudo_quantised,
)

_SHARES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995)
_ROUNDS = 10


class BoardOracleTopK(BoardTopKMethod):
    """The keys of largest score."""

    name = "oracle_topk"

    def estimates(self, call: AttentionCall, variant: str) -> np.ndarray:
        return call.scores


class BoardOracleTopP(BoardMethod):
    """The fewest keys that hold a share of the mass, sinks and local window counted; one share for all heads and layers."""

    name = "oracle_topp"

    def selections(
        self, call: AttentionCall, densities: Sequence[float]
    ) -> Iterator[tuple[BoardSetting, np.ndarray]]:
        mass = call.weights / call.weights.sum(axis=1, keepdims=True)
        # Those that are read anyway come first.
        order = np.argsort(np.where(call.kept, -2.0, -mass), axis=1, kind="stable")
        ordered = np.take_along_axis(mass, order, axis=1)
        before = np.cumsum(ordered, axis=1) - ordered
        for share in _SHARES:
            found = np.zeros_like(mass)
            np.put_along_axis(found, order, (before < share).astype(mass.dtype), axis=1)
            yield BoardSetting("", share), np.where(call.kept, np.float32(1), found)


class BoardPQCache(BoardTopKMethod):
    """Product quantisation of the keys: 2 or 4 pieces, each one of 64 or 256 centres of its own; the authors search 16 too."""

    name = "pqcache"
    variants = ("2 x 6", "2 x 8", "4 x 6", "4 x 8")

    def __init__(self, cache: CapturedCache):
        super().__init__(cache)
        self._books = {variant: self._book(*map(int, variant.split(" x "))) for variant in self.variants}

    def _book(self, pieces: int, bits: int) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Centres and codes of every piece, by KV head; centres are of the keys before the first measured query."""
        found = []
        for keys in self.cache.keys:
            parts = np.split(keys, pieces, axis=1)
            centres = [kmeans(part[: self.cache.prefill], 2**bits, _ROUNDS, self.cache.rng) for part in parts]
            found.append([(one, nearest(part, one)) for one, part in zip(centres, parts, strict=True)])
        return found

    def estimates(self, call: AttentionCall, variant: str) -> np.ndarray:
        seen, found = slice(call.first, call.last), []
        for queries, pieces in zip(call.grouped(call.queries), self._books[variant], strict=True):
            parts = np.split(queries, len(pieces), axis=1)
            found.append(
                sum((part @ one.T)[:, codes[seen]] for part, (one, codes) in zip(parts, pieces, strict=True))
            )
        return np.concatenate(found)


class BoardDoubleSparsity(BoardTopKMethod):
    """The channels where calibration queries are largest, of query and key, in few bits: 16 channels of 1, 8 of 2, 4 of 4."""

    name = "double_sparsity"
    variants = ("1", "2", "4")  # bits of a channel; their number follows from the size of the index

    def __init__(self, cache: CapturedCache):
        super().__init__(cache)
        self._order = np.argsort(-np.abs(cache.calibration.queries).mean(axis=1), axis=1, kind="stable")

    def estimates(self, call: AttentionCall, variant: str) -> np.ndarray:
        bits, width = int(variant), call.queries.shape[1]
        channels = self._order[:, : max(1, int(INDEX_BITS * width) // bits)]
        queries = pseudo_quantised(np.take_along_axis(call.queries, channels, axis=1), bits)
        found = []
        for head, query in enumerate(queries):
            keys = self.cache.keys[head // self.cache.capture.group, call.first : call.last]
            found.append(pseudo_quantised(keys[:, channels[head]], bits) @ query)
        return np.stack(found)


class BoardQuest(BoardMethod):
    """Pages of largest bound from each coordinate's least and largest key, in few bits: pages of 16 keys at 2 bits to 128 at 16."""

    name = "quest"

    def selections(
        self, call: AttentionCall, densities: Sequence[float]
    ) -> Iterator[tuple[BoardSetting, np.ndarray]]:
        # A page may hold keys that are read anyway, so that a density takes more of them.
        wanted = sorted({*densities, 1.5 * max(densities), 0.5 * min(densities)})
        for bits in (2, 4, 8, 16):
            page = int(2 * bits / INDEX_BITS)
            bounds = self._page_bounds(call, page, bits)
            order = np.argsort(-bounds, axis=1)
            for density in wanted:
                heavy = max(0, int(density * call.seen) - 2 * call.fixed)
                best = order[:, : max(3, heavy // page)]
                chosen = np.zeros(bounds.shape, bool)
                np.put_along_axis(chosen, best, True, axis=1)
                read = np.repeat(chosen, page, axis=1)[:, : call.seen]
                yield BoardSetting(str(bits), density), (call.kept | read).astype(np.float32)

    def _page_bounds(self, call: AttentionCall, page: int, bits: int) -> np.ndarray:
        """The largest score that a key of each page could have, float [heads, pages]."""
        keys = self.cache.keys[:, call.first : call.last]
        starts = np.arange(0, call.seen, page)
        least, most = np.minimum.reduceat(keys, starts, axis=1), np.maximum.reduceat(keys, starts, axis=1)
        if bits < 16:
            least, most = pseudo_quantised(least, bits), pseudo_quantised(most, bits)
        queries = call.queries[:, None]
        return np.maximum(queries * call.by_group(least), queries * call.by_group(most)).sum(axis=2)
