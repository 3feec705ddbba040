"""A read of rows that is under way: asked of the disk by threads, waited for when its rows are needed."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

import numpy as np
from numba.core import types

from ghostkv.files.compiled import njit
from ghostkv.store.layout import PAGE
from ghostkv.store.plan import Reads


@dataclass(frozen=True)
class Gathered:
    """Rows and what reading them touched."""

    rows: (
        np.ndarray
    )  # [..., numbers of a row]: K, V, and zeros up to a whole word; keys and values are views of it
    keys: np.ndarray  # [..., head_dim]
    values: np.ndarray | None  # [..., value_dim]
    reads: Reads


class Rooms:
    """Memory that blocks are read to. What is fresh from the kernel costs more than the reads, so one room is kept for the next."""

    # Bytes that are kept at most.
    _KEPT = 1 << 26

    def __init__(self):
        self._spare: np.ndarray | None = None

    def take(self, size: int) -> np.ndarray:
        """A room of at least so many bytes that nobody else has, uint8."""
        room, self._spare = self._spare, None
        if room is not None and len(room) >= size:
            return room
        # Anonymous pages are aligned, which O_DIRECT asks for.
        return np.frombuffer(mmap.mmap(-1, max(size, PAGE)), np.uint8)

    def give_back(self, room: np.ndarray) -> None:
        """Let the next read have a room that nothing uses any more."""
        if len(room) <= self._KEPT:
            self._spare = room


@dataclass(frozen=True)
class Runs:
    """Runs of blocks of a file, one request each, and the room that they are read to."""

    first: np.ndarray  # first block of each, ascending
    starts: np.ndarray  # where each begins in the room, in bytes, and where the last ends
    block: int  # bytes
    room: np.ndarray  # uint8

    @classmethod
    def of(cls, first: np.ndarray, counts: np.ndarray, block: int, rooms: Rooms) -> Runs:
        """Runs of `counts` blocks from `first` on, with room for all of them."""
        starts = np.concatenate([[0], np.cumsum(counts)]) * block
        return cls(first, starts, block, rooms.take(int(starts[-1])))

    def parts(self, count: int) -> list[range]:
        """The runs as so many parts of much the same bytes, none of them empty."""
        edges = np.searchsorted(self.starts, np.linspace(0, self.starts[-1], count + 1)[1:-1])
        edges = np.unique(np.concatenate([[0], edges, [len(self.first)]])).tolist()
        return [range(*pair) for pair in zip(edges, edges[1:], strict=False)]


# A system call of a compiled loop: threads that read do not wait for one another's turn in the interpreter.
_pread = types.ExternalFunction("pread", types.int64(types.int32, types.int64, types.uint64, types.int64))


def read_runs(descriptor: int, runs: Runs, part: range) -> int:
    """Read runs into their room, without the interpreter's lock; the number of the first that was not filled, or where the
    part ends. Why it was not is for the caller to find out."""
    return _read_runs(
        descriptor, runs.first, runs.starts, runs.block, runs.room.ctypes.data, part.start, part.stop
    )


@njit(cache=True, nogil=True)
def _read_runs(descriptor, first, starts, block, address, number, stop):
    while number < stop:
        start, offset = starts[number], first[number] * block
        size, done = starts[number + 1] - start, 0
        while done < size:
            found = _pread(descriptor, address + start + done, size - done, offset + done)
            if found <= 0:
                return number
            done += found
        number += 1
    return number


class Pending:
    """Rows that were asked for and may not be there yet.

    Attributes
    ----------
    found : Gathered
        Where they are put: complete once `result` has returned, and before that in the rows that `parts` has named.
    """

    def __init__(
        self, waiting: Sequence[Future], at_once: np.ndarray, found: Gathered, done: Callable[[], None]
    ):
        self.found = found
        self._waiting, self._at_once = waiting, at_once
        self._done: Callable[[], None] | None = done

    def result(self) -> Gathered:
        """The rows, once all of them are there and verified; raises what `GhostStore.read` raises."""
        # All of them: a thread that still reads must not do so to a room that another read has.
        wait(self._waiting)
        if self._done is not None:
            self._done()
            self._done = None
        for one in self._waiting:
            one.result()
        return self.found

    def parts(self) -> Iterator[np.ndarray]:
        """Numbers of rows that are there and verified, part after part, always in the same order; raises as `result` does, once
        all that was begun has ended."""
        try:
            if self._at_once.size:
                yield self._at_once
            for one in self._waiting:
                yield one.result()
        finally:
            self.result()
