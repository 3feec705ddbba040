"""All thresholds at once: one pass that counts, then a running sum.

A key is eliminated at threshold ``theta_t`` when its statistic is below it. With ascending thresholds and ``b
= searchsorted(theta, statistic, "right")`` (the number of thresholds at or below the statistic) that is ``t
>= b``, so a histogram over ``b`` and a running sum give every threshold's count, false eliminations, mass and
lost output together. The cost is one binning per (query, key) and does not grow with the number of
thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from ghostkv.elimination.attention import MASS_95, MASS_99, TOP_K
from ghostkv.elimination.grid import Grid, bin_row
from ghostkv.files.compiled import njit


@dataclass(frozen=True)
class Sweep:
    """What each threshold eliminates, per query; every array has shape [group, queries, thetas]."""

    eliminated: np.ndarray  # int32; cold keys eliminated
    false: np.ndarray  # int32; exact top-k keys eliminated
    # int32; eliminated among the fewest keys that hold 95 % / 99 % of the mass
    lost_95: np.ndarray
    lost_99: np.ndarray
    mass: np.ndarray  # float64; dropped mass
    # float32; output error ``||o - o_hat|| / ||o||``, survivors' softmax renormalised; None where values were not
    # given
    error: np.ndarray | None
    # int32 [queries, thetas]; cold keys that at least one head of the group keeps when all use the same threshold
    survivors_union: np.ndarray

    @classmethod
    def joined(cls, blocks: Sequence[Sweep]) -> Sweep:
        """Consecutive queries, one block after the other."""
        if len(blocks) == 1:
            return blocks[0]
        found = {
            field.name: np.concatenate(
                [getattr(block, field.name) for block in blocks], axis=int(field.name != "survivors_union")
            )
            for field in fields(cls)
            if getattr(blocks[0], field.name) is not None
        }
        return cls(**{"error": None} | found)


def sweep(
    statistic: np.ndarray,
    mass: np.ndarray,
    needed: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    grid: Grid,
    values: np.ndarray | None = None,
    outputs: np.ndarray | None = None,
) -> Sweep:
    """Count what every threshold eliminates.

    Parameters
    ----------
    statistic : ndarray of float32, shape [group, queries, keys]
        What the threshold rule compares with theta; NaN never occurs.
    needed : ndarray of uint8, shape [group, queries, keys]
        Flags of `ghostkv.elimination.attention.ExactAttention`.
    values : ndarray of float32, shape [keys, value_dim], optional
    outputs : ndarray of float32, shape [group, queries, value_dim], optional
        Exact attention outputs; needed with `values` for the output error.
    """
    group, queries, _ = statistic.shape
    thetas = len(grid.theta)
    counted = _Counted(
        counts=np.empty((4, group, queries, thetas + 1), np.int32),
        masses=np.empty((group, queries, thetas + 1)),
        union=np.zeros((queries, thetas + 1), np.int32),
        error=np.zeros((group, queries, thetas) if values is not None else (1, 1, 0), np.float32),
    )
    nothing = np.zeros((1, 1, 1), np.float32)
    _count(
        _SweptKeys(statistic=statistic, mass=mass, needed=needed, start=start, stop=stop),
        nothing[0] if values is None else values,
        nothing if outputs is None else outputs,
        grid,
        counted,
    )
    np.cumsum(counted.union, axis=-1, out=counted.union)
    eliminated, false, lost_95, lost_99 = counted.counts[..., :thetas]
    cold = np.maximum(stop - start, 0).astype(np.int32)[:, None]
    return Sweep(
        eliminated=eliminated,
        false=false,
        lost_95=lost_95,
        lost_99=lost_99,
        mass=counted.masses[..., :thetas],
        error=counted.error if values is not None else None,
        survivors_union=cold - counted.union[:, :thetas],
    )


class _SweptKeys(NamedTuple):
    """The first five parameters of `sweep`."""

    statistic: np.ndarray
    mass: np.ndarray
    needed: np.ndarray
    start: np.ndarray
    stop: np.ndarray


class _Counted(NamedTuple):
    """What each threshold eliminates, the last bin holding what none does.

    `counts` int32 [4, group, queries, thetas + 1] and `masses` float64 are running sums; `union` int32 [queries,
    thetas + 1] counts keys by the bin of the head that keeps them longest; `error` float32 [group, queries, thetas]
    has no thetas where there are no values.
    """

    counts: np.ndarray
    masses: np.ndarray
    union: np.ndarray
    error: np.ndarray


# Unsigned indices: see `ghostkv.elimination.grid`.
# Four counters share a word, 16 bits each: keys, and those of them that are flagged top-k, 95 % and 99 % mass. What a key
# with given flags adds to it:
_FLAGS = np.arange(256, dtype=np.uint64)
_LANES = np.uint64(1) | sum(
    (_FLAGS & flag) // flag << np.uint64(16 * lane) for lane, flag in enumerate((TOP_K, MASS_95, MASS_99), 1)
)
# So many keys fill no counter.
_BLOCK = 0xFFFF


@njit(cache=True, nogil=True, error_model="numpy")
def _histogram_row(bins, mass, needed, lanes, packed, summed, counts, masses):
    """Running counts and masses of a row by bin: a key costs two additions and no branch; `packed`, `summed` are scratch."""
    summed[:] = 0.0
    low = np.uint64(0xFFFF)
    for begin in range(0, max(1, bins.size), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        places, share, flags = bins[block], mass[block], needed[block]
        packed[:] = 0
        for j in range(places.size):
            place = np.uint64(places[j])
            packed[place] += lanes[np.uint64(flags[j])]
            summed[place] += share[j]
        keys, dropped = np.uint64(0), 0.0
        for place in range(packed.size):
            keys, dropped = keys + packed[place], dropped + summed[place]
            packed[place], masses[place] = keys, dropped
        for lane in range(4):
            shift, count = np.uint64(16 * lane), counts[lane]
            if begin:
                for place in range(packed.size):
                    count[place] += packed[place] >> shift & low
            else:
                for place in range(packed.size):
                    count[place] = packed[place] >> shift & low


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def lost_outputs(bins, mass, least, values, lost):
    """What each bin's keys add to the output: the sum of ``p v``; the last bin's, which nothing eliminates, stays 0.

    Parameters
    ----------
    bins : ndarray of uint32, shape [keys]
    mass : ndarray of float32, shape [keys]
    least : float32
        Masses up to it count as 0.
    values : ndarray of float32, shape [keys, value_dim]
    lost : ndarray of float32, shape [thetas + 1, value_dim]
        Filled.
    """
    lost[:] = 0.0
    width, last = values.shape[1], np.uint64(lost.shape[0] - 1)
    for j in range(bins.size):
        place, key = np.uint64(bins[j]), np.uint64(j)
        if place < last:
            p = mass[key] if mass[key] > least else np.float32(0)
            for v in range(width):
                lost[place, np.uint64(v)] += p * values[key, np.uint64(v)]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _output_error_row(output, masses, lost, error):
    """||o - o_hat|| / ||o|| at every threshold.

    With E the eliminated keys' sum of p v and m their mass, o_hat = (o - E) / (1 - m): o - o_hat = (E - m o)
    / (1 - m).
    """
    width = output.size
    norm = np.float32(0)
    for v in range(width):
        norm += output[v] * output[v]
    for t in range(error.size):
        m, square = np.float32(masses[t]), np.float32(0)
        for v in range(width):
            if t > 0:
                lost[t, v] += lost[t - 1, v]
            gap = lost[t, v] - m * output[v]
            square += gap * gap
        error[t] = np.sqrt(square / max(norm, np.float32(1e-30))) / max(1.0 - masses[t], 1e-30)


@njit(cache=True, nogil=True, error_model="numpy")
def _count(keys, values, outputs, grid, counted):
    """Fill `counted`; `values` and `outputs` are looked at only where errors are wanted."""
    group, queries, count = keys.statistic.shape
    thetas = counted.error.shape[2]
    guess, bins, highest = np.empty(count, np.uint32), np.empty(count, np.uint32), np.empty(count, np.uint32)
    lost = np.empty((thetas + 1, values.shape[1]), np.float32)
    packed, summed = np.empty(counted.masses.shape[2], np.uint64), np.empty(counted.masses.shape[2])
    for query in range(queries):
        cold = slice(keys.start[query], keys.stop[query])
        size = max(keys.stop[query] - keys.start[query], 0)
        row = bins[:size]
        highest[:size] = 0
        for head in range(group):
            mass, masses = keys.mass[head, query, cold], counted.masses[head, query]
            bin_row(keys.statistic[head, query, cold], grid, guess[:size], row)
            _histogram_row(
                row,
                mass,
                keys.needed[head, query, cold],
                _LANES,
                packed,
                summed,
                counted.counts[:, head, query],
                masses,
            )
            if thetas:
                lost_outputs(row, mass, np.float32(0), values[cold], lost)
                _output_error_row(outputs[head, query], masses, lost, counted.error[head, query])
            for j in range(size):
                highest[j] = max(highest[j], row[j])
        for j in range(size):
            counted.union[query, np.uint64(highest[j])] += 1
