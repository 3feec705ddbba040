"""The write-ahead log: frames of the tokens that do not fill a segment yet.

A frame is complete or it is not there: its checksum covers where it belongs, its records and the checksums of
its rows, which cover the rows. Frames follow one another without a gap, so what comes after the first that
does not fit was never acknowledged, or the file is damaged; the mark in `kv.bin` says which.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ghostkv.store.checksums import checksum, checksums
from ghostkv.store.layout import LOG_START, StoreShape

_FRAME = struct.Struct("<8sQQ")
_MAGIC = b"GKVFRAM\n"
_CHECKSUM = struct.Struct("<I")
# Magic, first token, tokens, checksum, and zeros up to here, so that rows start at a word.
FRAME_HEADER = 32


@dataclass(frozen=True)
class Frame:
    """Consecutive tokens, as an append brought them."""

    first: int  # position of the first token
    checksums: np.ndarray  # uint32 [tokens, heads]: of the rows; heads are layer times KV head
    records: np.ndarray  # uint8 [tokens, heads, record_bytes]
    rows: np.ndarray  # uint64 [tokens, heads, row words]

    @property
    def tokens(self) -> int:
        return len(self.checksums)


def pack(frame: Frame, store_id: bytes) -> bytes:
    """A frame as the log holds it: header, checksums, records, zeros up to a word, rows."""
    about = _about(frame.checksums.tobytes() + frame.records.tobytes())
    fixed = _FRAME.pack(_MAGIC, frame.first, frame.tokens)
    seal = _CHECKSUM.pack(checksum(about, checksum(fixed, checksum(store_id))))
    return b"".join([(fixed + seal).ljust(FRAME_HEADER, b"\0"), about, frame.rows.tobytes()])


@dataclass(frozen=True)
class Scan:
    """What a log holds."""

    frames: list[Frame]  # those from the expected token on, without a gap
    end: int  # offset after the last of them; LOG_START where there is none, as sealed frames may go
    stop: int  # offset after the last whole frame of any kind: where reading stopped
    torn: int  # bytes from there to the end of the file


def scan(data: bytes, shape: StoreShape, store_id: bytes, expected: int) -> Scan:
    """Read the frames of a whole log, which holds no more than one segment.

    The first token that no segment holds is `expected`. Frames before it were sealed; a kill between sealing and
    emptying the log leaves them.
    """
    frames, whole = [], LOG_START
    for frame, end in _frames(data, shape, store_id):
        if frame.first + frame.tokens > expected:
            if frame.first != expected:
                break
            frames.append(frame)
            expected += frame.tokens
        whole = end
    return Scan(frames, whole if frames else LOG_START, whole, len(data) - whole)


def _frames(data: bytes, shape: StoreShape, store_id: bytes) -> Iterator[tuple[Frame, int]]:
    offset = LOG_START
    while offset + FRAME_HEADER <= len(data):
        found = _frame(data, offset, shape, store_id)
        if found is None:
            return
        yield found
        offset = found[1]


def _frame(data: bytes, offset: int, shape: StoreShape, store_id: bytes) -> tuple[Frame, int] | None:
    """The frame at an offset and where it ends, or None where no whole frame lies there."""
    magic, first, tokens = _FRAME.unpack_from(data, offset)
    if magic != _MAGIC or not 0 < tokens <= shape.segment_tokens:
        return None
    count, start = tokens * shape.heads, offset + FRAME_HEADER
    length = _words(count * (4 + shape.record_bytes))
    end = start + length + count * shape.row_bytes
    (stored,) = _CHECKSUM.unpack_from(data, offset + _FRAME.size)
    fixed = data[offset : offset + _FRAME.size]
    about = data[start : start + length]
    if end > len(data) or stored != checksum(about, checksum(fixed, checksum(store_id))):
        return None
    sums = np.frombuffer(about, np.uint32, count).reshape(tokens, shape.heads)
    records = np.frombuffer(about, np.uint8, count * shape.record_bytes, 4 * count)
    rows = np.frombuffer(data, np.uint8, count * shape.row_bytes, start + length).copy().view(np.uint64)
    rows = rows.reshape(count, -1)
    if not np.array_equal(checksums(rows, row_numbers(shape, first, tokens).ravel()), sums.ravel()):
        return None
    records = records.reshape(tokens, shape.heads, shape.record_bytes)
    return Frame(first, sums, records, rows.reshape(tokens, shape.heads, -1)), end


def row_numbers(shape: StoreShape, first: int, tokens: int) -> np.ndarray:
    """Where the checksums of consecutive tokens start, uint32, shape [tokens, heads]."""
    positions = np.arange(first, first + tokens)[:, None]
    return shape.numbers(np.arange(shape.heads), positions).astype(np.uint32)


def _about(data: bytes) -> bytes:
    return data.ljust(_words(len(data)), b"\0")


def _words(size: int) -> int:
    return -(-size // 8) * 8
