"""A read of rows that is under way: asked of the disk by threads, waited for when its rows are needed."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

import numpy as np

from ghostkv.store.layout import WORD
from ghostkv.store.plan import Reads


@dataclass(frozen=True)
class Gathered:
    """Rows and what reading them touched."""

    keys: np.ndarray  # [..., head_dim]
    values: np.ndarray | None  # [..., value_dim]
    reads: Reads


@dataclass(frozen=True)
class Runs:
    """Runs of blocks of a file, one request each, and the room that they are read to."""

    first: np.ndarray  # first block of each, ascending
    starts: np.ndarray  # where each begins in the room, in bytes, and where the last ends
    block: int  # bytes
    room: np.ndarray  # uint8

    @classmethod
    def of(cls, first: np.ndarray, counts: np.ndarray, block: int) -> Runs:
        """Runs of `counts` blocks from `first` on, with room for all of them."""
        starts = np.concatenate([[0], np.cumsum(counts)]) * block
        # Anonymous pages are aligned, which O_DIRECT asks for.
        return cls(first, starts, block, np.frombuffer(mmap.mmap(-1, max(int(starts[-1]), WORD)), np.uint8))

    def parts(self, count: int) -> list[range]:
        """The runs as so many parts of much the same bytes, none of them empty."""
        edges = np.searchsorted(self.starts, np.linspace(0, self.starts[-1], count + 1)[1:-1])
        edges = np.unique(np.concatenate([[0], edges, [len(self.first)]])).tolist()
        return [range(*pair) for pair in zip(edges, edges[1:], strict=False)]


class Pending:
    """Rows that were asked for and may not be there yet."""

    def __init__(self, waiting: Sequence[Future], found: Gathered):
        self._waiting, self._found = waiting, found

    def result(self) -> Gathered:
        """The rows, once all of them are there and verified; raises what `GhostStore.read` raises."""
        # All of them, so that no thread writes to rows that the caller was told to forget.
        wait(self._waiting)
        for one in self._waiting:
            one.result()
        return self._found
