"""CRC-32 of many rows at once, the same as `zlib.crc32(row, start)` of each; and the copy of rows by
address."""

from __future__ import annotations

import zlib

import numpy as np

from ghostkv.files.compiled import njit

_POLYNOMIAL = 0xEDB88320


def _tables() -> np.ndarray:
    # Slicing by eight (Kounavis and Berry, 2005): table t advances a byte over t further zero bytes.
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    tables = [table]
    for _ in range(7):
        tables.append((tables[-1] >> 8) ^ table[tables[-1] & 0xFF])
    return np.stack(tables).astype(np.uint32)


_TABLES = _tables()


def checksums(words: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """CRC-32 of every row [rows, words] of little-endian words, contiguous, each continued from its own start value;
    uint32 [rows].

    A store starts from the row's own number, uint32, so that a row in the wrong place is found out.
    """
    found = np.empty(len(words), np.uint32)
    _checksum_rows(words, starts, _TABLES, found)
    return found


def checksum(data, start: int = 0) -> int:
    """CRC-32 of one stretch of bytes."""
    return zlib.crc32(data, start)


@njit(cache=True, nogil=True, boundscheck=False)
def _step(crc, word, tables):
    mixed = word ^ np.uint64(crc)
    return (
        tables[7, mixed & np.uint64(255)]
        ^ tables[6, (mixed >> np.uint64(8)) & np.uint64(255)]
        ^ tables[5, (mixed >> np.uint64(16)) & np.uint64(255)]
        ^ tables[4, (mixed >> np.uint64(24)) & np.uint64(255)]
        ^ tables[3, (mixed >> np.uint64(32)) & np.uint64(255)]
        ^ tables[2, (mixed >> np.uint64(40)) & np.uint64(255)]
        ^ tables[1, (mixed >> np.uint64(48)) & np.uint64(255)]
        ^ tables[0, mixed >> np.uint64(56)]
    )


@njit(cache=True, nogil=True, boundscheck=False)
def _checksum_rows(words, starts, tables, out):
    rows, width = words.shape
    # Four rows side by side: a step waits for the one before, and the processor fills the wait with the others.
    whole = rows - rows % 4
    for row in range(0, whole, 4):
        a, b = ~starts[row], ~starts[row + 1]
        c, d = ~starts[row + 2], ~starts[row + 3]
        for word in range(width):
            a = _step(a, words[row, word], tables)
            b = _step(b, words[row + 1, word], tables)
            c = _step(c, words[row + 2, word], tables)
            d = _step(d, words[row + 3, word], tables)
        out[row], out[row + 1], out[row + 2], out[row + 3] = ~a, ~b, ~c, ~d
    for row in range(whole, rows):
        a = ~starts[row]
        for word in range(width):
            a = _step(a, words[row, word], tables)
        out[row] = ~a


@njit(cache=True, nogil=True, boundscheck=False)
def copy_rows(file, tail, address, out):
    """Copy rows to `out`, shape [rows, words]: from word `address` of `file`, or word `-1 - address` of
    `tail`."""
    width = out.shape[1]
    for row in range(len(address)):
        start = address[row]
        if start >= 0:
            for word in range(width):
                out[row, word] = file[start + word]
        else:
            for word in range(width):
                out[row, word] = tail[-1 - start + word]
