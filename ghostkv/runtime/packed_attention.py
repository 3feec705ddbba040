"""A decode step of one layer over packed records: scan, survivors read once per group, tail; over threads.

Threads share the KV heads. Where they cannot share them evenly, each takes its part of the keys of every head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ghostkv.files.compiled import njit
from ghostkv.runtime.packed_parts import (
    HEADS,
    SURVIVORS,
    PackedCache,
    PackedRecords,
    PackedRule,
    Place,
    Room,
    join_parts,
    read_part,
    scan_part,
    span,
)
from ghostkv.runtime.packed_records import PackedFrames
from ghostkv.runtime.team import in_team, team_is_here


@njit(cache=True, nogil=True, error_model="numpy")
def _scan_share(thread, threads, given):
    parts, query, place, cache, frames, records, rule, room, _, _ = given
    kv_heads = cache.keys.shape[0]
    tasks = kv_heads * parts
    for task in range(tasks * thread // threads, tasks * (thread + 1) // threads):
        scan_part(task % kv_heads, task // kv_heads, parts, query, place, cache, frames, records, rule, room)


@njit(cache=True, nogil=True, error_model="numpy")
def _read_share(thread, threads, given):
    parts, query, place, cache, _, records, rule, room, _, _ = given
    kv_heads = cache.keys.shape[0]
    tasks = kv_heads * parts
    for task in range(tasks * thread // threads, tasks * (thread + 1) // threads):
        read_part(task % kv_heads, task // kv_heads, parts, query, place, cache, records, rule, room)


@njit(cache=True, nogil=True, error_model="numpy")
def _whole_heads(thread, threads, given):
    _, query, place, cache, frames, records, rule, room, out, counts = given
    kv_heads = cache.keys.shape[0]
    for kv in range(kv_heads * thread // threads, kv_heads * (thread + 1) // threads):
        scan_part(kv, 0, 1, query, place, cache, frames, records, rule, room)
        read_part(kv, 0, 1, query, place, cache, records, rule, room)
        join_parts(kv, 1, place, records, rule, room, out, counts)


@njit(cache=True, nogil=True, error_model="numpy")
def _alone(given):
    _whole_heads(0, 1, given)


@njit(cache=True, nogil=True, error_model="numpy")
def _together(threads, given):
    parts, _, place, _, _, records, rule, room, out, counts = given
    if parts == 1:
        in_team(_whole_heads, threads, given)
        return
    in_team(_scan_share, threads, given)
    in_team(_read_share, threads, given)
    for kv in range(len(counts)):
        join_parts(kv, parts, place, records, rule, room, out, counts)


@dataclass
class StepRooms:
    """Room of one step at a time, which layers share: what one has written is still in the caches for the next."""

    _held: dict[tuple, Room] = field(default_factory=dict)

    def take(self, kv_heads: int, parts: int, group: int, value_dim: int, words: int, tokens: int) -> Room:
        """Room for weights of so many words a head, and for as many candidates as tokens."""
        key, room = (kv_heads, parts, group, value_dim), self._held.get((kv_heads, parts, group, value_dim))
        if room is None or room.index.shape[1] < tokens or room.weights.shape[2] < words * group:
            small = [np.empty((kv_heads, parts, group)) for _ in range(7)]
            tokens += tokens // 4
            self._held[key] = room = Room(
                np.zeros((kv_heads, parts, words * group), np.int32), *small[:4],
                np.empty((kv_heads, tokens), np.int32), np.empty((kv_heads, tokens, group), np.int32),
                np.zeros((kv_heads, parts, HEADS + group), np.int64), *small[4:],
                np.empty((kv_heads, parts, group, value_dim), np.float32),
            )  # fmt: skip
        return room


@dataclass
class PackedAttention:
    """Decode steps of one layer, over so many threads of torch's, with the room that they need.

    Where torch has no OpenMP of GNU (`team_is_here`), one thread does them all.
    """

    frames: PackedFrames
    threads: int = 1
    rooms: StepRooms = field(default_factory=StepRooms, repr=False)
    _last: tuple[Room, list[int]] | None = field(default=None, repr=False)

    def step(
        self, query: np.ndarray, cache: PackedCache, records: PackedRecords, rule: PackedRule, place: Place
    ) -> tuple[np.ndarray, np.ndarray]:
        """Attention of one query a head over what the records let through.

        Parameters
        ----------
        query : ndarray of float32, shape [heads, head_dim]

        Returns
        -------
        out : ndarray of float32, shape [heads, value_dim]
        counts : ndarray of int64, shape [kv_heads, 2 + group]
            Candidates of the scan, survivors of the group, and those of each of its heads.
        """
        kv_heads, value_dim = len(cache.keys), cache.values.shape[2]
        group = len(query) // kv_heads
        threads = self.threads if team_is_here() else 1
        parts = 1 if kv_heads % threads == 0 else threads
        words = self.frames.decoder.shape[1] // 4
        room = self.rooms.take(kv_heads, parts, group, value_dim, words, place.tokens)
        self._last = room, [span(place, part, parts)[0] for part in range(parts)]
        out = np.empty((len(query), value_dim), np.float32)
        counts = np.empty((kv_heads, HEADS + group), np.int64)
        given = (parts, query, place, cache, self.frames, records, rule, room, out, counts)
        if threads == 1:
            _alone(given)
        else:
            _together(threads, given)
        return out, counts

    def survivors(self, kv_head: int) -> np.ndarray:
        """Positions of the cold keys that the last step read for a KV head, ascending."""
        room, lows = self._last
        counts = room.found[kv_head, :, SURVIVORS]
        parts = [room.index[kv_head, low : low + n] for low, n in zip(lows, counts, strict=True)]
        return np.concatenate(parts)
