"""What bounds a scan of records on this machine: copying memory, and the arithmetic on records that lie in the cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from ghostkv.files.compiled import njit
from ghostkv.runtime.packed_records import PackedFrames
from ghostkv.runtime.packed_scan import CHUNK, scan

# Bytes that a copy reads and writes: many times the last cache. Keys whose records stay in a core's own.
_COPIED = 1 << 26
_RESIDENT = 4 * CHUNK
# Scans of them in one timing, so that it takes a millisecond.
_TIMES = 32


class Copy:
    """A copy of memory by so many threads, each its part."""

    def __init__(self, threads: int, pool: Executor):
        self._parts = np.array_split(np.ones(_COPIED // 8), threads)
        self._into = [np.zeros_like(part) for part in self._parts]
        self._pool = pool

    def rate(self) -> float:
        """10^9 B/s, read and written."""
        before = time.perf_counter()
        waiting = [
            self._pool.submit(np.copyto, into, part)
            for into, part in zip(self._into[1:], self._parts[1:], strict=True)
        ]
        np.copyto(self._into[0], self._parts[0])
        for one in waiting:
            one.result()
        return 2 * _COPIED / (time.perf_counter() - before) / 1e9


def arithmetic(frames: PackedFrames, codes: np.ndarray, rho: np.ndarray, group: int) -> Callable[[], float]:
    """A function that times the scan of one key for a group, in seconds of one thread, on records that stay in its cache.

    Parameters
    ----------
    codes, rho : ndarray of uint8
        Of one KV head, as `packed` lays them out; its first keys are scanned over and over.
    """
    keys = min(_RESIDENT, len(rho))
    words = int(frames.rows[0] @ (1, 2, 4)) * group
    weights = np.random.default_rng(0).integers(-(1 << 31), 1 << 31, words).astype(np.int32)
    rooms = np.empty((group, CHUNK), np.int32), np.empty(CHUNK, np.uint8)
    found = np.empty(keys, np.int32), np.empty((keys, group), np.int32)

    def once() -> float:
        before = time.perf_counter()
        _scan_again(_TIMES, codes.reshape(-1), rho, weights, frames.rows[0], keys, group, *rooms, *found)
        return (time.perf_counter() - before) / (_TIMES * keys)

    return once


@njit(cache=True, nogil=True, error_model="numpy")
def _scan_again(times, codes, rho, weights, rows, keys, group, chunk, marks, index, sums):
    unit, bias, lse = np.full(group, 1e-3), np.zeros(group), np.empty(group)
    for _ in range(times):
        scan(
            codes, rho, weights, rows, unit, bias, 0.0, np.full(group, np.inf), 0, keys, np.zeros(group), lse, chunk,
            marks, index, sums,
        )  # fmt: skip
