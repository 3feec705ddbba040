"""The format of a store: header, marks, segments. docs/store.md has the same in words, with offsets.

Two files. `kv.bin` holds a header page and segments of a fixed number of tokens, each complete when it is
written and never changed after; `tail.log` is a write-ahead log of the tokens that do not fill a segment yet.
Everything is little-endian.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ghostkv.files.errors import StoreError
from ghostkv.store.checksums import checksum
from ghostkv.store.faults import damaged

if sys.byteorder != "little":
    raise ImportError("ghostkv.store: rows are read in place and are little-endian; this machine is not")

ROWS_FILE, LOG_FILE = "kv.bin", "tail.log"
ROWS_MAGIC, LOG_MAGIC = b"GKVROWS\n", b"GKVTAIL\n"
VERSION = 1
# One page, so that segments start where blocks of the disk do.
PAGE = 4096
LOG_START = 128
# Two places for the mark of what was acknowledged, written in turns, each in a disk sector of its own.
MARK_OFFSETS = (1024, 2048)
DTYPES = {"float16": 1, "float32": 2}
WORD = 8

_HEADER = struct.Struct("<8sII16s8I")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_MARK = struct.Struct("<8sQQ")
_MARK_MAGIC = b"GKVMARK\n"
MARK_BYTES = _MARK.size + _CHECKSUM.size
_SEGMENT = struct.Struct("<8sQ")
_SEGMENT_MAGIC = b"GKVSEGM\n"
# Magic, index, checksum, and zeros up to here.
_SEGMENT_HEADER = 32


@dataclass(frozen=True)
class StoreShape:
    """What a store holds of each token, and how it is cut into segments. Raises StoreError where a value is out of
    range.
    """

    layers: int
    kv_heads: int
    head_dim: int
    value_dim: int  # 0 for a store of keys alone
    record_bytes: int = 0  # bytes of one ghost record (code and rho); 0 for none
    dtype: str = "float16"  # of keys and values: "float16" or "float32"
    # Tokens of a segment. A row of one head follows the row of the token before, so that many tokens of a
    # head lie side by side; memory holds one segment.
    segment_tokens: int = 64

    def __post_init__(self):
        least = {"layers": 1, "kv_heads": 1, "head_dim": 1, "value_dim": 0, "record_bytes": 0}
        for name, low in (least | {"segment_tokens": 1}).items():
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or not low <= value < 2**16:
                raise StoreError(
                    f"StoreShape: {name} is {value!r}. Accepted: a whole number from {low} to {2**16 - 1}.\n"
                    f"  Write: {name}={max(low, 1)}"
                )
        if self.dtype not in DTYPES:
            raise StoreError(
                f"StoreShape: dtype is {self.dtype!r}. Accepted: {', '.join(DTYPES)}.\n"
                '  Write: dtype="float16"'
            )

    @property
    def heads(self) -> int:
        """Rows of one token: layers times KV heads."""
        return self.layers * self.kv_heads

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row: K, V, and zeros up to a whole word."""
        width = (self.head_dim + self.value_dim) * np.dtype(self.dtype).itemsize
        return -(-width // WORD) * WORD

    @cached_property
    def records_bytes(self) -> int:
        """Bytes before the rows of a segment: its header, checksums and records, in whole pages."""
        rows = self.heads * self.segment_tokens
        return -(-(_SEGMENT_HEADER + rows * (4 + self.record_bytes)) // PAGE) * PAGE

    @cached_property
    def segment_bytes(self) -> int:
        """Bytes of a segment, in whole pages."""
        rows = self.heads * self.segment_tokens * self.row_bytes
        return self.records_bytes + -(-rows // PAGE) * PAGE

    def segment_offset(self, segment: int) -> int:
        """Where a segment starts in `kv.bin`."""
        return PAGE + segment * self.segment_bytes

    def numbers(self, heads: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Number of a row in the store, from which its checksum starts, int64; a head is `layer * kv_heads +
        kv_head`.

        ``(segment * layers * kv_heads + head) * segment_tokens + slot``
        """
        segment, slot = np.divmod(tokens, self.segment_tokens)
        return (segment * self.heads + heads) * self.segment_tokens + slot

    def addresses(self, heads: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Byte offset in `kv.bin` of rows of sealed tokens, int64."""
        segment, slot = np.divmod(tokens, self.segment_tokens)
        start = PAGE + segment * self.segment_bytes + self.records_bytes
        return start + (heads * self.segment_tokens + slot) * self.row_bytes


class SegmentImage:
    """One segment as it lies on disk, in memory, with views into its parts.

    Attributes
    ----------
    data : ndarray of uint8, shape [segment_bytes]
    checksums : ndarray of uint32, shape [layers * kv_heads, segment_tokens]
    records : ndarray of uint8, shape [layers * kv_heads, segment_tokens, record_bytes]
    rows : ndarray of uint64, shape [layers * kv_heads, segment_tokens, row words]
    """

    def __init__(self, shape: StoreShape):
        self.shape, self.data = shape, np.zeros(shape.segment_bytes, np.uint8)
        grid = (shape.heads, shape.segment_tokens)
        count = shape.heads * shape.segment_tokens
        first, second = _SEGMENT_HEADER, _SEGMENT_HEADER + 4 * count
        third = second + count * shape.record_bytes
        self.checksums = self.data[first:second].view(np.uint32).reshape(grid)
        self.records = self.data[second:third].reshape(*grid, shape.record_bytes)
        rows = self.data[shape.records_bytes :][: count * shape.row_bytes]
        self.rows = rows.view(np.uint64).reshape(*grid, -1)

    def finish(self, segment: int) -> memoryview:
        """Write the header of segment number `segment`; the bytes to put on disk."""
        self.data[: _SEGMENT.size] = np.frombuffer(_SEGMENT.pack(_SEGMENT_MAGIC, segment), np.uint8)
        self.data[_SEGMENT.size : _SEGMENT.size + 4].view(np.uint32)[0] = self._checksum()
        return memoryview(self.data)

    def fault(self, segment: int) -> str | None:
        """What is wrong with the records block, as a clause; None where it is segment number `segment`."""
        magic, found = _SEGMENT.unpack_from(self.data)
        if magic != _SEGMENT_MAGIC:
            return f"segment {segment} should start and does not (found {bytes(magic)!r})"
        if self.data[_SEGMENT.size : _SEGMENT.size + 4].view(np.uint32)[0] != self._checksum():
            return f"the records of segment {segment} do not match their checksum"
        return None if found == segment else f"segment {found} lies where segment {segment} should"

    def _checksum(self) -> int:
        head = checksum(self.data[: _SEGMENT.size])
        return checksum(self.data[_SEGMENT_HEADER : self.shape.records_bytes], head)


def pack_header(shape: StoreShape, store_id: bytes, magic: bytes) -> bytes:
    """The header of `kv.bin` or `tail.log`, padded to where its contents start."""
    start = PAGE if magic == ROWS_MAGIC else LOG_START
    body = _HEADER.pack(
        magic, VERSION, start, store_id, shape.layers, shape.kv_heads, shape.head_dim, shape.value_dim,
        shape.record_bytes, DTYPES[shape.dtype], shape.segment_tokens, 0,
    )  # fmt: skip
    return (body + _CHECKSUM.pack(checksum(body))).ljust(start, b"\0")


def unpack_header(data: bytes, magic: bytes, path: Path) -> tuple[StoreShape, bytes]:
    """Shape and store id of a header.

    Raises StoreError where the file is too short, of another kind or version, or its header is damaged.
    """
    start = PAGE if magic == ROWS_MAGIC else LOG_START
    if data[:8] != magic:
        raise damaged(path, 0, f"a store's file starts with {magic!r}; found {bytes(data[:8])!r}")
    if len(data) < start:
        raise damaged(path, len(data), f"the file ends inside its header of {start} bytes")
    body = data[: _HEADER.size]
    if _CHECKSUM.unpack_from(data, _HEADER.size)[0] != checksum(body):
        raise damaged(path, _HEADER.size, "the checksum of the header does not match it")
    _, version, length, store_id, *numbers = _HEADER.unpack(body)
    if version != VERSION or length != start:
        raise damaged(
            path, 8, f"the format is version {version}; this code reads {VERSION}",
            "Read it with the version of ghostkv that wrote it, or delete the folder and append again.",
        )  # fmt: skip
    names = {code: name for name, code in DTYPES.items()}
    try:
        return StoreShape(*numbers[:5], names[numbers[5]], numbers[6]), store_id
    except (KeyError, StoreError) as error:
        # The first line says what is wrong; what a caller should write instead is no remedy for a file.
        found = str(error).partition("\n")[0].removesuffix(".")
        raise damaged(path, 32, f"the header has impossible values ({found})") from None


def pack_mark(generation: int, tokens: int, store_id: bytes) -> bytes:
    """A mark: so many tokens were acknowledged."""
    body = _MARK.pack(_MARK_MAGIC, generation, tokens)
    return body + _CHECKSUM.pack(checksum(body, checksum(store_id)))


def unpack_mark(header: bytes, store_id: bytes, path: Path) -> tuple[int, int]:
    """Generation and acknowledged tokens of the newer of the two marks in a header page; StoreError where neither is
    whole.
    """
    found = []
    for offset in MARK_OFFSETS:
        body = header[offset : offset + _MARK.size]
        (stored,) = _CHECKSUM.unpack_from(header, offset + _MARK.size)
        if body[:8] == _MARK_MAGIC and stored == checksum(body, checksum(store_id)):
            found.append(_MARK.unpack(body)[1:])
    if not found:
        raise damaged(path, MARK_OFFSETS[0], "neither mark of the acknowledged tokens is whole")
    return max(found)
