"""A hot buffer of rows under LRU, every size at once: what a request of a decode step has to fetch.

A row is K and V of one token of one KV head, and a request all cold rows that a step reads. LRU holds the rows that were asked
for most recently, so a buffer holds what every smaller one holds (Mattson et al. 1970): a row is missed by the buffers that
are no larger than the number of rows above it in the stack. Rows of one request are looked up before any of them moves; among
them the later position counts as more recent. A row that leaves the hot window is in fast memory already and enters the
stack like one that was asked for. These are the rules of policy `lru` of `ghostkv.stages.decode.lifecycle`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ghostkv.elimination.attention import ColdRange
from ghostkv.files.compiled import njit
from ghostkv.stages.decode.lifecycle import WARM, Capacity, StepReads, ceiling, prefilled

SURVIVORS, TOP_K = "survivors", "top_k"


def top_requests(levels: np.ndarray, least: int, visible: ColdRange) -> StepReads:
    """Requests of what is marked by at least so much, uint8 [steps, tokens], as `decide` marks it."""
    steps = len(levels)
    ends = np.cumsum(np.count_nonzero(levels >= least, axis=1))
    keys = np.empty(ends[-1], np.int32)
    _collect(levels, least, keys)
    return StepReads(keys, ends, np.zeros(len(keys), np.float32), np.zeros(steps), visible)


@njit(cache=True, nogil=True)
def _collect(levels, least, keys):
    count = 0
    for t in range(levels.shape[0]):
        for key in range(levels.shape[1]):
            if levels[t, key] >= least:
                keys[count] = key
                count += 1


def depths(reads: StepReads) -> tuple[np.ndarray, np.ndarray]:
    """How many rows lie above each row of `StepReads.keys` when it is asked for, int32; and whether nothing touched it since
    the first step, bool. Below all that was touched lie the cold rows of the first step, the latest on top."""
    depth, fresh = np.empty(len(reads.keys), np.int32), np.empty(len(reads.keys), np.bool_)
    seen = reads.visible
    _depths(reads.keys, reads.ends, seen.first, seen.start, seen.stop, reads.tokens, depth, fresh)
    return depth, fresh


@njit(cache=True, nogil=True)
def _depths(keys, ends, first, start, stop, tokens, depth, fresh):
    # The stack from its bottom, so that what lies below the deepest row of a request stays where it is.
    stack, size = np.empty(tokens, np.int32), 0
    wanted, touched = np.zeros(tokens, np.bool_), np.zeros(tokens, np.bool_)
    above = np.zeros(tokens, np.int32)
    for token in range(start[0], stop[0]):
        stack[size] = token
        size += 1
    begin = 0
    for t in range(ends.size):
        left = ends[t] - begin
        for i in range(begin, ends[t]):
            wanted[keys[i]] = True
            fresh[i] = not touched[keys[i]]
        at = size
        while left > 0:
            at -= 1
            if wanted[stack[at]]:
                above[stack[at]] = size - 1 - at
                left -= 1
        kept = at
        for j in range(at, size):
            if not wanted[stack[j]]:
                stack[kept] = stack[j]
                kept += 1
        for i in range(begin, ends[t]):
            depth[i] = above[keys[i]]
            wanted[keys[i]], touched[keys[i]] = False, True
            stack[kept] = keys[i]
            kept += 1
        if t + 1 < ends.size:
            for token in range(max(stop[t], first[t + 1]), stop[t + 1]):
                touched[token] = True
                stack[size] = token
                size += 1
        begin = ends[t]


def buffer_rows(
    about: Mapping, reads: StepReads, asked: int | None, buffers: Sequence[int], bounded: bool
) -> Iterator[dict]:
    """A row for each size of the buffer; columns of `BUFFER_SCHEMA`.

    `asked` is the number of rows that a request asks for, or None where requests are survivors. A buffer that cannot hold such a
    request has no row. Where `bounded`, the least misses that any choice of rows leaves stand beside.
    """
    sizes = np.array([rows for rows in sorted(buffers) if asked is None or rows >= asked], np.int64)
    found = np.zeros((2, len(sizes), len(reads.ends)), np.int64)
    _count(*depths(reads), reads.ends, sizes, found)
    requested = np.diff(reads.ends, prepend=0)
    for rows, misses, unseen in zip(sizes.tolist(), *found, strict=True):
        row = {"request": SURVIVORS if asked is None else TOP_K, "asked": asked, "buffer": rows}
        row |= {"steps": len(misses), "rows": float(requested.mean()), "misses": float(misses.mean())}
        row |= {"misses_p99": float(np.quantile(misses, 0.99)), "misses_max": int(misses.max())}
        row["first_reads"] = float(unseen.mean())
        if bounded:
            kept = prefilled(reads.visible, Capacity(rows, 0, 0, 0)) == WARM
            row["least_misses"] = float((requested - ceiling(reads, rows, kept)).mean())
        yield {**about, **row}


@njit(cache=True, nogil=True)
def _count(depth, fresh, ends, sizes, found):
    """Misses of each size at each step, and those of rows that were untouched; found int64 [2, sizes, steps]."""
    begin = 0
    for t in range(ends.size):
        for i in range(begin, ends[t]):
            for size in range(sizes.size):
                # Sizes ascend, and what one holds every larger one holds.
                if depth[i] < sizes[size]:
                    break
                found[0, size, t] += 1
                found[1, size, t] += fresh[i]
        begin = ends[t]
