"""K and V of one layer in memory: sinks and hot window always, and of the cold tokens those that were read most recently."""

from __future__ import annotations

import numpy as np

from ghostkv.files.compiled import njit
from ghostkv.runtime.lanes import as_float

# Numbers that the kernel reads at once; rows are filled up with zeros.
_LANES = 16
# A rank is the step that read a row last, then its position, which breaks ties; larger stays.
_POSITION_BITS = 40


def widened(rows: np.ndarray) -> np.ndarray:
    """Rows as float32, of a width that the kernel reads; [..., width]."""
    more = -rows.shape[-1] % _LANES
    rows = np.ascontiguousarray(rows, np.float32)
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, more)]) if more else rows


def widen_rows(
    rows: np.ndarray, chosen: np.ndarray, head_dim: int, value_dim: int, keys: np.ndarray, values: np.ndarray
) -> None:
    """Write K and V of the chosen rows of a store, [rows, numbers of a row], as float32 to the same rows of `keys` and
    `values`; what these have beyond the widths stays."""
    if rows.dtype == np.float16:
        _widen(rows.view(np.uint16), chosen, 0, head_dim, keys)
        _widen(rows.view(np.uint16), chosen, head_dim, value_dim, values)
    else:
        keys[chosen, :head_dim] = rows[chosen, :head_dim]
        values[chosen, :value_dim] = rows[chosen, head_dim : head_dim + value_dim]


@njit(cache=True, nogil=True, error_model="numpy")
def _widen(bits, chosen, first, width, out):
    # NumPy widens halves one by one, which takes as long as reading them.
    for i in range(chosen.size):
        _widen_row(bits[chosen[i], first : first + width], out[chosen[i], :width])


@njit(cache=True, nogil=True, error_model="numpy")
def _widen_row(row, into):
    for d in range(into.size):
        half = np.int32(row[d])
        size = (half & np.int32(0x7FFF)) << np.int32(13)
        # The exponent counts from 127 and no more from 15; of infinities and what is no number it has all bits.
        number = as_float(size) * np.float32(2.0**112)
        beyond = as_float(size + np.int32(0x70000000))
        number = beyond if size >= np.int32(0x0F800000) else number
        into[d] = -number if half & np.int32(0x8000) else number


class RowBuffer:
    """Rows of a layer as far as memory holds them, under LRU; a row is K and V of one token of one KV head.

    Sinks and hot window come first, then so many cold rows a KV head. A row that leaves the hot window competes with those that
    the last step read.

    Attributes
    ----------
    keys, values : ndarray of float32, shape [kv_heads, slots, head_dim or value_dim]
        As `widened` has them.
    tokens : int
        Tokens that it was given, those that it holds no longer among them.
    """

    def __init__(self, shape: tuple[int, int, int], sinks: int, hot: int, rows: int):
        """An empty buffer for `shape`: KV heads, and widths of a key and of a value. Raises ValueError without a hot window,
        in which every query finds its own token.
        """
        if hot < 1 or sinks < 0 or rows < 0:
            raise ValueError(
                f"RowBuffer: {sinks} sinks, a hot window of {hot}, {rows} rows; the window needs 1"
            )
        kv_heads, head_dim, value_dim = shape
        self.sinks, self.hot, self.rows, self.tokens = sinks, hot, rows, 0
        held = (kv_heads, sinks + hot + rows)
        self.keys, self.values = (widened(np.zeros((*held, width))) for width in (head_dim, value_dim))
        self._step = 0
        self._rank = np.full((kv_heads, rows), -1, np.int64)
        # Slot of every token among the cold rows, -1 where it is not there.
        self._slot = np.full((kv_heads, 1024), -1, np.int32)

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Take tokens, [kv_heads, tokens, head_dim or value_dim]; what leaves the hot window becomes cold."""
        keys, values = widened(keys), widened(values)
        count = keys.shape[1]
        before, after = self.tokens, self.tokens + count
        self._grow(after)
        cold = range(max(before - self.hot, self.sinks), max(after - self.hot, self.sinks))
        for kv_head in range(len(self.keys)):
            # Of many that leave at once, only as many as there is room for.
            chosen = np.arange(max(cold.start, cold.stop - self.rows), cold.stop)
            old = chosen[chosen < before]
            at = self._exact_slots(old)
            rows = [
                np.concatenate([held[kv_head, at], new[kv_head, chosen[len(old) :] - before]])
                for held, new in ((self.keys, keys), (self.values, values))
            ]
            self._hold(kv_head, chosen, *rows)
        exact = np.concatenate(
            [np.arange(before, min(after, self.sinks)), np.arange(max(before, cold.stop), after)]
        )
        at = self._exact_slots(exact)
        self.keys[:, at], self.values[:, at] = keys[:, exact - before], values[:, exact - before]
        self.tokens = after

    def exact(self) -> np.ndarray:
        """Slots of sinks and hot window, int64."""
        return np.arange(min(self.tokens, self.sinks + self.hot))

    def slots(self, kv_head: int, positions: np.ndarray) -> np.ndarray:
        """Slot of each cold token, int64; -1 of those that are not there."""
        found = self._slot[kv_head, positions].astype(np.int64)
        return np.where(found < 0, found, found + self.sinks + self.hot)

    def keep(self, reads: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> None:
        """End a step: for each KV head the positions that were there, those that were not, and K and V of the latter, as
        `widened` has them."""
        self._step += 1
        for kv_head, (hits, misses, keys, values) in enumerate(reads):
            self._rank[kv_head, self._slot[kv_head, hits]] = self._step << _POSITION_BITS | hits
            self._hold(kv_head, misses, keys, values)

    def _hold(self, kv_head: int, positions: np.ndarray, keys: np.ndarray, values: np.ndarray) -> None:
        first = self.sinks + self.hot
        ranks = self._step << _POSITION_BITS | positions
        held = self.keys[kv_head, first:], self.values[kv_head, first:]
        _replace(ranks, keys, values, self._rank[kv_head], self._slot[kv_head], *held)

    def _exact_slots(self, positions: np.ndarray) -> np.ndarray:
        ring = self.sinks + (positions - self.sinks) % self.hot
        return np.where(positions < self.sinks, positions, ring)

    def _grow(self, tokens: int) -> None:
        if tokens > self._slot.shape[1]:
            more = max(tokens, 2 * self._slot.shape[1]) - self._slot.shape[1]
            self._slot = np.pad(self._slot, ((0, 0), (0, more)), constant_values=-1)


@njit(cache=True, nogil=True)
def _replace(ranks, keys, values, rank, slot, held_keys, held_values):
    """Let rows in that rank among the highest; of those that are there the lowest give way."""
    mask = (np.int64(1) << _POSITION_BITS) - 1
    every = np.concatenate((rank[rank >= 0], ranks))
    drop = every.size - rank.size
    least = np.partition(every, drop)[drop] if 0 < drop < every.size else np.int64(-1)
    if drop == every.size:
        return
    place = 0
    for i in range(ranks.size):
        if ranks[i] < least:
            continue
        while rank[place] >= max(least, 0):
            place += 1
        if rank[place] >= 0:
            slot[rank[place] & mask] = -1
        rank[place] = ranks[i]
        slot[ranks[i] & mask] = place
        held_keys[place] = keys[i]
        held_values[place] = values[i]
