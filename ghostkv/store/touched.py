"""Pages and bytes that a read of rows touches, and the kernel's own account of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.files.compiled import njit


@dataclass(frozen=True)
class Touched:
    """What reading rows touches."""

    rows: int
    requests: int  # runs of units that follow one another in the order of reading
    units: int  # different units
    ramp_units: float  # units met before the prefetcher has caught up, in its own measure
    unit: int  # bytes of a unit

    @property
    def size(self) -> int:
        """Bytes that the tier moves."""
        return self.units * self.unit


def touched(starts: np.ndarray, row_bytes: int, unit: int, ramp: float = 0.0, merge: bool = True) -> Touched:
    """Count the units that reading rows touches, and the requests that this takes.

    Byte offsets `starts` [rows] are in the order of reading. A run of u units has ``ramp * (1 - exp(-u / ramp))`` of
    them before the prefetcher has caught up. With `merge`, a row that begins in or right after the unit where the row
    before ended continues its request; without, every row is a request. Raises ValueError where a size is not
    positive, or an offset is negative.
    """
    starts = np.ascontiguousarray(starts, np.int64)
    if row_bytes < 1 or unit < 1 or (starts.size and starts.min() < 0):
        raise ValueError("rows need a size and a unit of at least one byte, and offsets from 0")
    first, last = starts // unit, (starts + row_bytes - 1) // unit
    requests, ramps = _runs(first, last, float(ramp), merge)
    if starts.size and (np.diff(first) < 0).any():
        order = np.argsort(first, kind="stable")
        first, last = first[order], last[order]
    return Touched(starts.size, requests, int(_distinct(first, last)), ramps, unit)


@njit(cache=True)
def _runs(first, last, ramp, merge):
    requests, ramps, length, end = 0, 0.0, 0, -2
    for i in range(first.size):
        a, b = first[i], last[i]
        if merge and (a == end or a == end + 1):
            length += b - end
        else:
            ramps += _ahead(length, ramp)
            requests += 1
            length = b - a + 1
        end = b
    return requests, ramps + _ahead(length, ramp)


@njit(cache=True)
def _ahead(length, ramp):
    return ramp * (1.0 - np.exp(-length / ramp)) if ramp > 0.0 else 0.0


@njit(cache=True)
def _distinct(first, last):
    """Units in the union of ranges that are sorted by their start."""
    count, end = 0, -1
    for i in range(first.size):
        begin = max(first[i], end + 1)
        if last[i] >= begin:
            count += last[i] - begin + 1
            end = last[i]
    return count


def bytes_read() -> int:
    """Bytes that the kernel fetched from a device for this process so far; always 0 where it keeps no account."""
    try:
        with open("/proc/self/io") as file:
            return int(next(line for line in file if line.startswith("read_bytes:")).split()[1])
    except (OSError, StopIteration):
        return 0
