"""The indexes of Louver's recall table (UIC-InDeXLab/Louver), with its authors' parameters, and what each reads to answer a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.stages.reproduce.clusters import kmeans, nearest
from ghostkv.stages.reproduce.louver.hnsw import HnswGraph

SINKS, PAGE, TOP_P = 4, 16, 0.85
_BALL, _ROUNDS, _LINKS, _PLANES, _PIECES, _CODES = 4, 20, 32, 64, 8, 256
# Of the scores that a threshold is guessed from, one in so many.
_SAMPLED = 8
# Rounding of a float32 score, relative to the norms: `fair` bounds count it, the published ones do not.
_ROUNDED = 1e-5


@dataclass(frozen=True)
class RecallAsked:
    """A query, and the keys that may answer it.

    Attributes
    ----------
    scores : ndarray of float32, shape [keys]
        q.k of all keys, -inf of those that may not be returned.
    first, last : int
        Keys first..last-1 may be returned.
    scale : float
        What a probability is an exponential of: `scale * scores`.
    fair : bool
        Whether a method gets what it could know, or what its published figures rest on.
    sinks, hot : int
        Keys that a cache holds exactly in any case.
    """

    query: np.ndarray
    scores: np.ndarray
    first: int
    last: int
    scale: float
    fair: bool
    sinks: int
    hot: int

    @property
    def count(self) -> int:
        return self.last - self.first

    @cached_property
    def ordered(self) -> np.ndarray:
        """Keys by score, the largest first."""
        return np.argsort(-self.scores, kind="stable")[: self.count]

    def among(self, keys: np.ndarray) -> np.ndarray:
        """Those of these keys that may be returned, in their order."""
        return keys[(keys >= self.first) & (keys < self.last)]


class RecallAnswer(NamedTuple):
    """What a method returns, and what it read for it."""

    keys: np.ndarray  # their numbers
    index_bytes: float
    looked: int = 0  # keys that were read in full to find them; 0 where only those that are returned are


class RecallIndex(ABC):
    """An index of one KV head's keys, which are known as a whole when it is built."""

    name: str

    def __init__(self, keys: np.ndarray, rng: np.random.Generator):
        self.keys, self.width = keys, keys.shape[1]

    @abstractmethod
    def returned(self, asked: RecallAsked, k: int) -> RecallAnswer:
        """The keys for a query of which the `k` best are wanted."""

    @property
    def vector_bytes(self) -> int:
        """Of one key in float16."""
        return ELEMENT_BYTES * self.width


class RecallLouver(RecallIndex):
    """Balls around k-means clusters, n / 4 of them: every key whose ball reaches the k-th score."""

    name = "louver"

    def __init__(self, keys: np.ndarray, rng: np.random.Generator):
        super().__init__(keys, rng)
        self.centres = kmeans(keys, max(1, len(keys) // _BALL), _ROUNDS, rng)
        self.owner = nearest(keys, self.centres)
        distances = np.linalg.norm(keys - self.centres[self.owner], axis=1)
        self.radii = np.zeros(len(self.centres), np.float32)
        np.maximum.at(self.radii, self.owner, distances)

    def threshold(self, asked: RecallAsked, k: int) -> tuple[float, int]:
        """What a ball must reach, and how many keys were read to know it: the exact k-th score, as published, from nowhere."""
        return float(asked.scores[asked.ordered[min(k, asked.count) - 1]]), 0

    def returned(self, asked: RecallAsked, k: int) -> RecallAnswer:
        least, looked = self.threshold(asked, k)
        norm = float(np.linalg.norm(asked.query))
        reach = self.centres @ asked.query + norm * self.radii
        if asked.fair:
            reach += _ROUNDED * norm * np.linalg.norm(self.centres, axis=1)
        found = asked.among(np.flatnonzero((reach >= least)[self.owner]))
        # A centre and a radius a ball, of the balls that a cache of that many keys has.
        balls = len(self.centres) * asked.count / len(self.keys)
        return RecallAnswer(found, balls * (self.vector_bytes + ELEMENT_BYTES) + looked * self.vector_bytes)


class _SameBalls(RecallLouver):
    """The balls of another index."""

    def __init__(self, other: RecallLouver):
        vars(self).update(vars(other))


class RecallLouverHot(_SameBalls):
    """The same with the k-th score among sinks and hot window, which is at most the k-th of all: no key is lost."""

    name = "louver_hot"

    def threshold(self, asked: RecallAsked, k: int) -> tuple[float, int]:
        token = np.arange(asked.first, asked.last)
        read = asked.scores[token[(token < asked.sinks) | (token >= asked.last - asked.hot)]]
        return (float(np.partition(read, -k)[-k]) if k <= len(read) else -np.inf), 0


class RecallLouverSampled(_SameBalls):
    """The same with a threshold guessed from every eighth key, which may lie above the k-th score."""

    name = "louver_sampled"

    def threshold(self, asked: RecallAsked, k: int) -> tuple[float, int]:
        read = asked.scores[asked.first : asked.last : _SAMPLED]
        rank = min(len(read), -(-k // _SAMPLED))
        return float(np.partition(read, -rank)[-rank]), len(read)


class RecallHnsw(RecallIndex):
    """A graph of the keys at norm 1, M = 32, searched with a beam of max(64, 2 k)."""

    name = "hnsw"

    def __init__(self, keys: np.ndarray, rng: np.random.Generator):
        super().__init__(keys, rng)
        norms = np.linalg.norm(keys, axis=1, keepdims=True) + 1e-12
        self.graph = HnswGraph.of(np.ascontiguousarray(keys / norms), _LINKS, rng)

    def returned(self, asked: RecallAsked, k: int) -> RecallAnswer:
        query = asked.query / (np.linalg.norm(asked.query) + 1e-12)
        found, looked = self.graph.search(query.astype(np.float32), asked.last, max(64, 2 * k))
        # Links of 4 bytes, of every node that was looked at.
        return RecallAnswer(asked.among(found)[:k], 8 * _LINKS * looked, looked)


class RecallIvf(RecallIndex):
    """Lists of k-means clusters, sqrt(n) of them, of which a quarter is scanned."""

    name = "ivf"

    def __init__(self, keys: np.ndarray, rng: np.random.Generator):
        super().__init__(keys, rng)
        # By inner product, as the lists are searched.
        self.centres = kmeans(keys, max(1, min(int(len(keys) ** 0.5), len(keys) // 4)), _ROUNDS, rng)
        self.owner = np.argmax(keys @ self.centres.T, axis=1)

    def returned(self, asked: RecallAsked, k: int) -> RecallAnswer:
        probes = np.argsort(-(self.centres @ asked.query))[: max(1, len(self.centres) // 4)]
        probed = np.zeros(len(self.centres), bool)
        probed[probes] = True
        scanned = asked.among(np.flatnonzero(probed[self.owner]))
        best = scanned[np.argsort(-asked.scores[scanned], kind="stable")[:k]]
        return RecallAnswer(best, len(self.centres) * self.vector_bytes, len(scanned))


class RecallPq(RecallIndex):
    """Product quantisation, 8 pieces of 8 bits."""

    name = "pq"

    def __init__(self, keys: np.ndarray, rng: np.random.Generator):
        super().__init__(keys, rng)
        parts = np.split(keys, _PIECES, axis=1)
        self.books = [kmeans(part, _CODES, _ROUNDS, rng) for part in parts]
        self.codes = [nearest(part, book) for part, book in zip(parts, self.books, strict=True)]

    def returned(self, asked: RecallAsked, k: int) -> RecallAnswer:
        parts = np.split(asked.query, _PIECES)
        guess = sum(
            (book @ part)[codes] for book, codes, part in zip(self.books, self.codes, parts, strict=True)
        )
        guess = guess[asked.first : asked.last]
        best = asked.first + np.argsort(-guess, kind="stable")[:k]
        return RecallAnswer(best, asked.count * _PIECES + len(self.books[0]) * self.vector_bytes)


class RecallLsh(RecallIndex):
    """Signs of 64 random planes; the 2 k keys that differ in the fewest."""

    name = "lsh"

    def __init__(self, keys: np.ndarray, rng: np.random.Generator):
        super().__init__(keys, rng)
        self.planes = rng.normal(size=(self.width, _PLANES)).astype(np.float32)
        self.signs = keys @ self.planes >= 0

    def returned(self, asked: RecallAsked, k: int) -> RecallAnswer:
        seen = self.signs[asked.first : asked.last]
        differ = (seen != (asked.query @ self.planes >= 0)).sum(axis=1)
        best = asked.first + np.argsort(differ, kind="stable")[: 2 * k]
        return RecallAnswer(best, asked.count * _PLANES / 8)


class RecallQuest(RecallIndex):
    """Pages of 16 keys by the largest score in each: as published the exact one, and k / 16 pages. Fair: by its bounds."""

    name = "quest"

    def __init__(self, keys: np.ndarray, rng: np.random.Generator):
        super().__init__(keys, rng)
        self._bounds: dict[int, list[np.ndarray]] = {}

    def returned(self, asked: RecallAsked, k: int) -> RecallAnswer:
        return self.pages(asked, max(1, -(-k // PAGE)))

    def pages(self, asked: RecallAsked, count: int) -> RecallAnswer:
        """The keys of so many pages."""
        starts = np.arange(asked.first, asked.last, PAGE)
        found = asked.among((self._ordered(asked, starts)[:count, None] + np.arange(PAGE)).ravel())
        return RecallAnswer(found, 2 * self.vector_bytes * len(starts))

    def _ordered(self, asked: RecallAsked, starts: np.ndarray) -> np.ndarray:
        """Where pages start, the best first."""
        if not asked.fair:
            reach = np.maximum.reduceat(asked.scores[: asked.last], starts)
            return starts[np.argsort(-reach, kind="stable")]
        # The bounds of whole pages serve all queries.
        if asked.first not in self._bounds:
            places = np.arange(asked.first, len(self.keys), PAGE)
            self._bounds = {
                asked.first: [edge.reduceat(self.keys, places, axis=0) for edge in (np.minimum, np.maximum)]
            }
        low, high = (edge[: len(starts)].copy() for edge in self._bounds[asked.first])
        last = self.keys[starts[-1] : asked.last]
        low[-1], high[-1] = last.min(axis=0), last.max(axis=0)
        reach = np.maximum(low * asked.query, high * asked.query).sum(axis=1)
        return starts[np.argsort(-reach, kind="stable")]


class RecallStreaming(RecallIndex):
    """4 sinks and the k - 4 most recent keys."""

    name = "streaming"

    def returned(self, asked: RecallAsked, k: int) -> RecallAnswer:
        token = np.arange(asked.first, asked.last)
        recent = asked.last - max(0, k - SINKS)
        return RecallAnswer(token[(token < asked.first + SINKS) | (token >= recent)], 0)


class RecallTwilight(RecallIndex):
    """The fewest keys that hold 85 % of the softmax, by exact scores: all keys are read to know them."""

    name = "twilight"

    def returned(self, asked: RecallAsked, k: int) -> RecallAnswer:
        ordered = asked.scores[asked.ordered].astype(np.float64) * (asked.scale if asked.fair else 1.0)
        mass = np.exp(ordered - ordered[0])
        needed = int(np.searchsorted(np.cumsum(mass), TOP_P * mass.sum())) + 1
        return RecallAnswer(asked.ordered[:needed], 0, asked.count)


PUBLISHED: tuple[type[RecallIndex], ...] = (
    RecallLouver,
    RecallHnsw,
    RecallIvf,
    RecallPq,
    RecallLsh,
    RecallQuest,
    RecallStreaming,
    RecallTwilight,
)
KNOWN: tuple[type[_SameBalls], ...] = (RecallLouverHot, RecallLouverSampled)
FAIR: tuple[type[RecallIndex], ...] = (
    RecallLouver,
    *KNOWN,
    RecallHnsw,
    RecallIvf,
    RecallPq,
    RecallLsh,
    RecallQuest,
    RecallStreaming,
    RecallTwilight,
)
