"""An index over ghost records: anchors of clusters, scanned before any record is read.

The keys of a text are indexed in *blocks*: what a prefill leaves, then a chunk whenever so many keys have become cold.
A block's anchors never change, so appending invalidates nothing; keys younger than the last block are *pending* and their
records are read one by one. With two levels, clusters of one block are gathered under coarser anchors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.codecs.nested import Nested
from ghostkv.stages.hierarchy.anchors import Anchors, anchor_bytes, upper_bounds, write
from ghostkv.stages.hierarchy.partitions import partition

# Clusters under one coarse anchor.
BRANCH = 8


@dataclass(frozen=True, order=True)
class IndexSpec:
    """How an index is made."""

    partition: str  # one of `ghostkv.stages.hierarchy.partitions.PARTITIONS`
    leaf: int  # keys a cluster
    bound: str  # one of `ghostkv.stages.hierarchy.anchors.BOUNDS`
    levels: int = 1  # 1, or 2 for coarser anchors over `BRANCH` clusters each

    @property
    def name(self) -> str:
        return f"{self.partition}_{self.leaf}_{self.bound}" + ("_2" if self.levels == 2 else "")


@dataclass
class Index:
    """Anchors over the cold keys of one KV head; grows by `append`."""

    codec: Nested  # fitted
    keys: np.ndarray  # shape [keys, head_dim]: all keys of the text; only those appended are looked at
    spec: IndexSpec
    start: int  # first key to index (the number of sinks)
    stops: list[int] = field(default_factory=list)  # key after the last of each block
    leaves: Anchors | None = None
    coarse: Anchors | None = None
    # int64, shape [indexed keys]: keys, cluster by cluster.
    members: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    # int64, shape [clusters + 1]: where each cluster's members begin.
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    children: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    # Clusters of blocks by (first, stop, partition, leaf), which indexes of the same keys may share.
    clusterings: dict = field(default_factory=dict, repr=False)
    _ready: list[tuple[int, int]] = field(default_factory=list)

    @property
    def stop(self) -> int:
        """Key after the last indexed one."""
        return self.stops[-1] if self.stops else self.start

    def append(self, stop: int) -> Index:
        """Index the keys up to `stop` as one more block; what was indexed before is left as it is."""
        first = self.stop
        if stop <= first:
            return self
        block = self.keys[first:stop].astype(np.float64)
        points = (block - self.codec.mean_) @ self.codec.encoder_.T
        wanted = first, stop, self.spec.partition, self.spec.leaf
        if wanted not in self.clusterings:
            self.clusterings[wanted] = partition(points, self.spec.leaf, self.spec.partition)
        owner = self.clusterings[wanted]
        if self.spec.levels == 2:
            owner, parent = _gather(points, owner)
            coarse = write(self.codec, block, parent[owner], self.spec.bound)
            self.coarse = coarse if self.coarse is None else Anchors.concatenate([self.coarse, coarse])
            self.children = np.append(
                self.children, len(self.offsets) - 1 + np.cumsum(np.bincount(parent))
            ).astype(np.int64)
        leaves = write(self.codec, block, owner, self.spec.bound)
        self.leaves = leaves if self.leaves is None else Anchors.concatenate([self.leaves, leaves])
        self.members = np.append(self.members, first + np.argsort(owner, kind="stable"))
        self.offsets = np.append(self.offsets, self.offsets[-1] + np.cumsum(np.bincount(owner)))
        self.stops.append(stop)
        self._ready.append((len(self.leaves), len(self.coarse) if self.coarse is not None else 0))
        return self

    def append_chunks(self, stop: int, chunk: int, rest: bool = False) -> Index:
        """Append blocks of `chunk` keys, as many as are whole by `stop`, and what is left over if `rest`."""
        while self.stop + chunk <= stop:
            self.append(self.stop + chunk)
        return self.append(stop) if rest else self

    def ready(self, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a query whose cold keys end at `stop` may use.

        Returns
        -------
        tuple of ndarray of int64, each of shape [queries]
            Leaves, coarse anchors, and the first pending key.
        """
        blocks = np.searchsorted(self.stops, stop, side="right")
        table = np.array([(0, 0), *self._ready], np.int64)
        return table[blocks, 0], table[blocks, 1], np.array([self.start, *self.stops], np.int64)[blocks]

    @property
    def owner(self) -> np.ndarray:
        """Cluster of each indexed key in the order of `members`, shape [indexed keys]."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def anchor_bytes(self) -> float:
        return anchor_bytes(self.codec, self.spec.bound)

    @property
    def constant_bytes(self) -> float:
        """Scales that every block stores once and every query reads."""
        return len(self.stops) * (ELEMENT_BYTES * self.keys.shape[1] + 8.0)

    def upper(self, queries: np.ndarray, scale: float, softcap: float = 0.0) -> Reach:
        """Bounds of every cluster for queries of shape [group, queries, head_dim]."""
        shape, flat = queries.shape[:2], queries.reshape(-1, queries.shape[-1])

        def seen(anchors: Anchors | None) -> tuple[np.ndarray, np.ndarray]:
            if anchors is None:
                return np.zeros((*shape, 0), np.float32), np.zeros((*shape, 0), np.float32)
            middle, upper = upper_bounds(anchors, self.codec, flat, scale, softcap)
            return middle.reshape(*shape, -1), upper.reshape(*shape, -1)

        (middle, upper), (coarse_middle, coarse_upper) = seen(self.leaves), seen(self.coarse)
        return Reach(middle=middle, upper=upper, coarse_middle=coarse_middle, coarse_upper=coarse_upper)


class Reach(NamedTuple):
    """Scores of centres and largest scores of members; float32, shape [group, queries, clusters]."""

    middle: np.ndarray
    upper: np.ndarray
    coarse_middle: np.ndarray
    coarse_upper: np.ndarray

    def shrunk(self, share: np.ndarray) -> Reach:
        """Keep only a share of each margin (one a head): no bound any more where it is below 1."""

        def shrink(middle: np.ndarray, upper: np.ndarray) -> np.ndarray:
            return (middle + share[:, None, None].astype(np.float32) * (upper - middle)).astype(np.float32)

        return self._replace(
            upper=shrink(self.middle, self.upper), coarse_upper=shrink(self.coarse_middle, self.coarse_upper)
        )


def _gather(points: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gather clusters under parents and number them parent by parent; returns (owner, parent of each cluster)."""
    size = np.bincount(owner)[:, None]
    centre = np.zeros((len(size), points.shape[1]))
    np.add.at(centre, owner, points)
    above = partition(centre / size, BRANCH, "ball_tree")
    order = np.argsort(above, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[owner], above[order]


def members_above(index: Index, reach: Reach, scores: np.ndarray) -> Iterator[tuple[str, int, int]]:
    """Hold every member's exact score against its anchors.

    Parameters
    ----------
    scores : ndarray of float64, shape [group, queries, keys]
        -inf where a key is not cold.

    Yields
    ------
    tuple
        "leaf" or "coarse", pairs checked (of cold keys), pairs whose score lies above.
    """
    columns, owner = scores[..., index.members], index.owner
    # What is not cold has a score of -inf, and no bound could fail on it.
    checked = int((columns != -np.inf).sum())
    yield "leaf", checked, int((columns > reach.upper[..., owner]).sum())
    if index.coarse is not None:
        parent = np.repeat(np.arange(len(index.children) - 1), np.diff(index.children))
        yield "coarse", checked, int((columns > reach.coarse_upper[..., parent[owner]]).sum())


def key_bounds(index: Index, reach: Reach, keys: int, stop: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Every key's centre score and bound by its cluster, shape [group, queries, keys]; infinite where pending."""
    found = np.full((2, *reach.upper.shape[:2], keys), np.inf, np.float32)
    found[0] = -np.inf
    for source, target in zip((reach.middle, reach.upper), found, strict=True):
        target[..., index.members] = source[..., index.owner]
    pending = np.arange(keys) >= index.ready(np.asarray(stop))[2][:, None]
    return np.where(pending, -np.inf, found[0]), np.where(pending, np.inf, found[1])
