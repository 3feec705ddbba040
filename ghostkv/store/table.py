"""What a store keeps in memory of every token: its records and the checksums of its rows."""

from __future__ import annotations

import numpy as np

from ghostkv.store.layout import StoreShape

# Room grows by half, so that an append costs the same on average however long the store is.
_GROWTH = 1.5


class RecordTable:
    """Records and checksums of all tokens, head by head, as a scan reads them.

    Attributes
    ----------
    checksums : ndarray of uint32, shape [heads, room]
    records : ndarray of uint8, shape [heads, room, record_bytes]
    """

    def __init__(self, shape: StoreShape, room: int):
        self.checksums = np.zeros((shape.heads, room), np.uint32)
        self.records = np.zeros((shape.heads, room, shape.record_bytes), np.uint8)

    @property
    def nbytes(self) -> int:
        return self.checksums.nbytes + self.records.nbytes

    def put(self, first: int, checksums: np.ndarray, records: np.ndarray) -> None:
        """Store the tokens from `first` on; shapes [heads, tokens] and [heads, tokens, record_bytes]."""
        stop = first + checksums.shape[1]
        if stop > self.checksums.shape[1]:
            room = max(stop, int(_GROWTH * self.checksums.shape[1]))
            self.checksums = _grown(self.checksums, first, room)
            self.records = _grown(self.records, first, room)
        self.checksums[:, first:stop] = checksums
        self.records[:, first:stop] = records


def _grown(old: np.ndarray, used: int, room: int) -> np.ndarray:
    new = np.zeros((old.shape[0], room, *old.shape[2:]), old.dtype)
    new[:, :used] = old[:, :used]
    return new
