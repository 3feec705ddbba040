"""What opening a store does: read the records, find where whole data ends, refuse what is damaged.

The rule is one comparison. Segments and log frames are taken as far as they are whole and follow one another; if
that holds fewer tokens than the mark says were acknowledged, the files are damaged and are refused. What lies
beyond the last whole frame was never acknowledged: an append that was killed, which is cut.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ghostkv.files.errors import StoreError
from ghostkv.store import layout
from ghostkv.store.checksums import checksums
from ghostkv.store.faults import REPAIR, damaged
from ghostkv.store.files import Files, read_at, read_into
from ghostkv.store.layout import SegmentImage, StoreShape
from ghostkv.store.log import Scan, scan
from ghostkv.store.table import RecordTable


@dataclass
class Recovered:
    """A store as its files say it is."""

    shape: StoreShape
    store_id: bytes
    generation: int  # of the newer mark
    acknowledged: int  # tokens, by that mark
    segments: int  # whole segments
    log: Scan
    table: RecordTable  # records of the segments
    torn: int  # bytes of writes that were cut short by a kill, in both files

    @property
    def tokens(self) -> int:
        return self.segments * self.shape.segment_tokens + sum(frame.tokens for frame in self.log.frames)


def open_files(folder: str | Path, writable: bool) -> tuple[int, int]:
    """Descriptors of `kv.bin`, locked where it is opened for writing, and `tail.log`.

    Raises StoreError where there is no store, or another writer has it.
    """
    folder, opened = Path(folder), []
    try:
        for name in (layout.ROWS_FILE, layout.LOG_FILE):
            opened.append(os.open(folder / name, os.O_RDWR if writable else os.O_RDONLY))
        if writable:
            fcntl.flock(opened[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _close(opened)
        raise StoreError(
            f"{folder / layout.ROWS_FILE}: another writer has this store open, and a store takes one at a time.\n"
            "  Close that one, or open this one for reading: GhostStore.open(folder)"
        ) from None
    except OSError as error:
        _close(opened)
        kind = "no store" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
        raise StoreError(
            f"{error.filename}: {kind}. A store is a folder with {layout.ROWS_FILE} and {layout.LOG_FILE}.\n"
            "  Restore the missing file from a copy, or write: GhostStore.create(folder, StoreShape(...))"
        ) from None
    return opened[0], opened[1]


def recover(folder: Path, rows: int, log: int, check_rows: bool) -> Recovered:
    """Read and check the files of a store: descriptors of `kv.bin` and `tail.log`, and the folder for messages.

    With `check_rows` every row of K and V is verified as well, a segment at a time. Raises StoreError where a file is
    damaged; the message names it, the offset and the remedy.
    """
    header = read_at(rows, layout.PAGE, 0)
    shape, store_id = layout.unpack_header(header, layout.ROWS_MAGIC, folder / layout.ROWS_FILE)
    generation, acknowledged = layout.unpack_mark(header, store_id, folder / layout.ROWS_FILE)
    size, path = os.fstat(rows).st_size, folder / layout.ROWS_FILE
    sealed = acknowledged // shape.segment_tokens
    if size < shape.segment_offset(sealed):
        raise damaged(
            path, size, f"the file ends, and its {acknowledged} acknowledged tokens reach to offset "
            f"{shape.segment_offset(sealed)}", REPAIR,
        )  # fmt: skip
    table, image = RecordTable(shape, (sealed + 1) * shape.segment_tokens), SegmentImage(shape)
    for segment in range(sealed):
        fault = _load(rows, image, segment, check_rows)
        if fault:
            raise damaged(path, *fault, REPAIR)
        table.put(segment * shape.segment_tokens, image.checksums, image.records)
    segments = sealed
    # Segments beyond the mark were written by an append that was killed before it was acknowledged; they must
    # be whole to the last row, or they are not there.
    while size >= shape.segment_offset(segments + 1) and _load(rows, image, segments, True) is None:
        table.put(segments * shape.segment_tokens, image.checksums, image.records)
        segments += 1
    found = _read_log(folder, log, shape, store_id, segments * shape.segment_tokens)
    torn = max(size - shape.segment_offset(segments), 0) + found.torn
    state = Recovered(shape, store_id, generation, acknowledged, segments, found, table, torn)
    if state.tokens < acknowledged:
        raise damaged(
            folder / layout.LOG_FILE, found.stop,
            f"no whole frame follows token {state.tokens - 1}, and {acknowledged} tokens were acknowledged", REPAIR,
        )  # fmt: skip
    return state


def row_fault(rows: int, image: SegmentImage, segment: int) -> tuple[int, str] | None:
    """Read a segment's rows and compare each with the checksum in `image`; offset and fault of the first bad
    one."""
    shape = image.shape
    start = shape.segment_offset(segment) + shape.records_bytes
    read_into(rows, image.data[shape.records_bytes :], start)
    numbers = shape.numbers(
        np.arange(shape.heads)[:, None], segment * shape.segment_tokens + np.arange(shape.segment_tokens)
    )
    flat = image.rows.reshape(-1, image.rows.shape[2])
    wrong = checksums(flat, numbers.astype(np.uint32).ravel()) != image.checksums.ravel()
    if not wrong.any():
        return None
    row = int(wrong.argmax())
    head, slot = divmod(row, shape.segment_tokens)
    return start + row * shape.row_bytes, describe_row(shape, head, segment * shape.segment_tokens + slot)


def describe_row(shape: StoreShape, head: int, token: int) -> str:
    """What is wrong with a row that fails its checksum, as a clause."""
    layer, kv_head = divmod(head, shape.kv_heads)
    return f"the row of layer {layer}, KV head {kv_head}, token {token} does not match its checksum"


def repair(folder: str | Path) -> int:
    """Keep the longest whole beginning of a damaged store and drop what follows; the tokens kept. Drops nothing of a
    whole one.

    No writer may have the store open. Copy it first, if what would be dropped may be worth something. Raises
    StoreError where the header of `kv.bin` is damaged: nothing can be told of what follows it.
    """
    folder, files = Path(folder), Files()
    if (folder / layout.ROWS_FILE).exists() and not (folder / layout.LOG_FILE).exists():
        (folder / layout.LOG_FILE).touch()
    rows, log = open_files(folder, writable=True)
    try:
        header = read_at(rows, layout.PAGE, 0)
        shape, store_id = layout.unpack_header(header, layout.ROWS_MAGIC, folder / layout.ROWS_FILE)
        try:
            generation = layout.unpack_mark(header, store_id, folder / layout.ROWS_FILE)[0]
        except StoreError:
            generation = 0
        image, size, segments = SegmentImage(shape), os.fstat(rows).st_size, 0
        while size >= shape.segment_offset(segments + 1) and _load(rows, image, segments, True) is None:
            segments += 1
        tokens = segments * shape.segment_tokens
        try:
            found = _read_log(folder, log, shape, store_id, tokens)
        except StoreError:
            found = Scan([], layout.LOG_START, layout.LOG_START, 0)
            files.write(log, layout.pack_header(shape, store_id, layout.LOG_MAGIC), 0)
        tokens += sum(frame.tokens for frame in found.frames)
        files.truncate(rows, shape.segment_offset(segments))
        files.truncate(log, found.end)
        for step, offset in enumerate(layout.MARK_OFFSETS, start=1):
            files.write(rows, layout.pack_mark(generation + step, tokens, store_id), offset)
        for descriptor in (rows, log):
            files.sync(descriptor)
    finally:
        _close([rows, log])
    return tokens


def _load(rows: int, image: SegmentImage, segment: int, check_rows: bool) -> tuple[int, str] | None:
    """Read a segment's records into `image`, its rows too if they are to be checked; offset and fault."""
    shape = image.shape
    offset = shape.segment_offset(segment)
    image.data[: shape.records_bytes] = 0
    read_into(rows, image.data[: shape.records_bytes], offset)
    fault = image.fault(segment)
    if fault:
        return offset, fault
    return row_fault(rows, image, segment) if check_rows else None


def _read_log(folder: Path, log: int, shape: StoreShape, store_id: bytes, expected: int) -> Scan:
    path, data = folder / layout.LOG_FILE, read_at(log, os.fstat(log).st_size, 0)
    described, owner = layout.unpack_header(data, layout.LOG_MAGIC, path)
    if owner != store_id or described != shape:
        raise damaged(path, 16, f"the log belongs to another store than {layout.ROWS_FILE} beside it", REPAIR)
    return scan(data, shape, store_id, expected)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
