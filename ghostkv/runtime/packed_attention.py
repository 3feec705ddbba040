"""A decode step of one layer over packed records: scan, survivors read once per group, tail; over threads.

Threads share the KV heads. Where they cannot share them evenly, each takes its part of the keys of every head.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from ghostkv.files.compiled import njit
from ghostkv.runtime.packed_parts import (
    SURVIVORS,
    PackedCache,
    PackedRecords,
    PackedRule,
    Room,
    join_parts,
    read_part,
    scan_part,
    span,
)
from ghostkv.runtime.packed_records import PackedFrames


@njit(cache=True, nogil=True, error_model="numpy")
def _scan_parts(first, last, parts, query, cache, frames, records, rule, room):
    kv_heads = cache.keys.shape[0]
    for task in range(first, last):
        scan_part(task % kv_heads, task // kv_heads, parts, query, cache, frames, records, rule, room)


@njit(cache=True, nogil=True, error_model="numpy")
def _read_parts(first, last, parts, query, cache, frames, records, rule, room):
    kv_heads = cache.keys.shape[0]
    for task in range(first, last):
        read_part(task % kv_heads, task // kv_heads, parts, query, cache, records, rule, room)


@njit(cache=True, nogil=True, error_model="numpy")
def _whole_heads(first, last, query, cache, frames, records, rule, room, out, counts):
    for kv in range(first, last):
        scan_part(kv, 0, 1, query, cache, frames, records, rule, room)
        read_part(kv, 0, 1, query, cache, records, rule, room)
        join_parts(kv, 1, cache.keys.shape[1], records, rule, room, out, counts)


@njit(cache=True, nogil=True, error_model="numpy")
def _join_all(parts, cache, records, rule, room, out, counts):
    for kv in range(cache.keys.shape[0]):
        join_parts(kv, parts, cache.keys.shape[1], records, rule, room, out, counts)


@dataclass
class PackedAttention:
    """Decode steps of one layer, over so many threads, with the room that they need."""

    frames: PackedFrames
    group: int
    threads: int = 1
    pool: Executor | None = None  # of threads - 1 workers; the calling thread is the other
    _room: Room | None = field(default=None, repr=False)
    _lows: list[int] = field(default_factory=list, repr=False)

    def step(
        self, query: np.ndarray, cache: PackedCache, records: PackedRecords, rule: PackedRule
    ) -> tuple[np.ndarray, np.ndarray]:
        """Attention of one query a head over what the records let through.

        Parameters
        ----------
        query : ndarray of float32, shape [heads, head_dim]

        Returns
        -------
        out : ndarray of float32, shape [heads, value_dim]
        counts : ndarray of int64, shape [kv_heads, 2]
            Candidates of the scan, and survivors of the group.
        """
        kv_heads, tokens, _ = cache.keys.shape
        parts = 1 if kv_heads % self.threads == 0 else self.threads
        room = self._take_room(kv_heads, parts, tokens, cache.values.shape[2])
        self._lows = [span(tokens, rule, part, parts)[0] for part in range(parts)]
        out = np.empty((len(query), cache.values.shape[2]), np.float32)
        counts = np.empty((kv_heads, 2), np.int64)
        common = (query, cache, self.frames, records, rule, room)
        if parts == 1:
            self._share(kv_heads, lambda first, last: _whole_heads(first, last, *common, out, counts))
        else:
            self._share(kv_heads * parts, lambda first, last: _scan_parts(first, last, parts, *common))
            self._share(kv_heads * parts, lambda first, last: _read_parts(first, last, parts, *common))
            _join_all(parts, cache, records, rule, room, out, counts)
        return out, counts

    def survivors(self, kv_head: int) -> np.ndarray:
        """Positions of the cold keys that the last step read for a KV head, ascending; a view of what the next step overwrites."""
        found = self._room.found[kv_head]
        parts = [
            self._room.index[kv_head, low : low + count]
            for low, count in zip(self._lows, found[:, SURVIVORS], strict=True)
        ]
        return np.concatenate(parts)

    def _share(self, tasks: int, work: Callable[[int, int], None]) -> None:
        edges = [tasks * thread // self.threads for thread in range(self.threads + 1)]
        waiting = [self.pool.submit(work, *edges[i : i + 2]) for i in range(1, self.threads)]
        work(0, edges[1])
        for one in waiting:
            one.result()

    def _take_room(self, kv_heads: int, parts: int, tokens: int, value_dim: int) -> Room:
        if self._room is None or self._room.index.shape[1] < tokens or self._room.lse.shape[1] != parts:
            words = self.frames.decoder.shape[1] // 4 * self.group
            small = [np.empty((kv_heads, parts, self.group)) for _ in range(7)]
            self._room = Room(
                np.zeros((kv_heads, parts, words), np.int32), *small[:4],
                np.empty((kv_heads, tokens + tokens // 4), np.int32),
                np.empty((kv_heads, tokens + tokens // 4, self.group), np.int32),
                np.zeros((kv_heads, parts, 2), np.int64), *small[4:],
                np.empty((kv_heads, parts, self.group, value_dim), np.float32),
            )  # fmt: skip
        return self._room
