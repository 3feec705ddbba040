"""Which blocks of a file hold given rows, in as few requests as their gaps allow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.files.errors import StoreError
from ghostkv.store.layout import WORD


@dataclass(frozen=True)
class Reads:
    """What a read of rows touches."""

    rows: int  # rows asked for, repeats included
    memory_rows: int  # those of the tail, which no disk is asked for
    wanted_bytes: int  # bytes of the distinct rows in the file
    blocks: int  # distinct blocks that hold them
    requests: int  # runs of blocks, one system call each
    bytes: int  # bytes that these requests read: blocks and the gaps between them


def runs_of(
    offsets: np.ndarray, row_bytes: int, block: int, gap: int
) -> tuple[np.ndarray, np.ndarray, Reads]:
    """First block of each request to read, ascending, its number of blocks, both int64 [requests], and what the
    requests touch.

    Offsets of rows are in bytes, negative where a row lies in memory. Blocks are of `block` bytes; `gap` unwanted
    blocks between two wanted ones are read rather than asked around. Raises StoreError where `block` or `gap` is out
    of range.
    """
    if block < WORD or block % WORD or gap < 0:
        raise StoreError(
            f"GhostStore: block is {block} and gap is {gap}. Accepted: a block of whole words of {WORD} bytes, "
            "a gap of 0 or more.\n  Write: block=4096, gap=0"
        )
    on_disk = np.sort(offsets[offsets >= 0])
    on_disk = on_disk[np.diff(on_disk, prepend=-1) > 0]
    start, end = on_disk // block, (on_disk + row_bytes - 1) // block
    before = np.concatenate([start[:1] - gap - 2, end[:-1]])
    leads = np.flatnonzero(start - before > gap + 1)
    first = start[leads]
    counts = end[np.append(leads[1:], len(end)) - 1] - first + 1 if len(end) else first
    # The last block of a row may be the first of the next.
    blocks = int((end - np.maximum(start, before + 1) + 1).sum())
    reads = Reads(
        rows=len(offsets),
        memory_rows=int((offsets < 0).sum()),
        wanted_bytes=len(on_disk) * row_bytes,
        blocks=blocks,
        requests=len(first),
        bytes=int(counts.sum()) * block,
    )
    return first, counts, reads
