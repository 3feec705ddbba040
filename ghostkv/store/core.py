"""`GhostStore`: append, acknowledge, seal, close."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ghostkv.files.errors import StoreError
from ghostkv.store import layout
from ghostkv.store.batches import checked, rows_of
from ghostkv.store.checksums import checksums
from ghostkv.store.files import Files
from ghostkv.store.layout import SegmentImage, StoreShape
from ghostkv.store.log import Frame, pack, row_numbers
from ghostkv.store.pending import Rooms
from ghostkv.store.reads import NOTHING, RowReader
from ghostkv.store.recovery import Recovered, open_files, recover

# How often a reader looks again when a writer sealed a segment under its eyes.
_LOOKS = 8


class GhostStore(RowReader):
    """K and V of many tokens in a memory-mapped file, their ghost records in memory.

    Made by `create` or `open`; a context manager. One process writes, any number reads a snapshot.

    Attributes
    ----------
    folder, file : Path
        The store, and the file in it that holds K and V.
    tokens : int
        Tokens that the store holds.
    sealed : int
        Those that lie in `file`; the rest, less than a segment, lie in memory and in the write-ahead log.
    cut_bytes : int
        Bytes of an append that a kill had cut short, dropped (by a reader: passed over) when the store was opened.
    """

    def __init__(
        self, folder: Path, rows: int, log: int, state: Recovered, writable, fsync, verify_reads, files
    ):
        self.folder, self.file, self.shape = folder, folder / layout.ROWS_FILE, state.shape
        self.writable, self.fsync, self.verify_reads = writable, fsync, verify_reads
        self._rows, self._log, self._files = rows, log, files
        self._store_id, self._generation, self._table = state.store_id, state.generation, state.table
        self._rooms = Rooms()
        self._log_end, self.cut_bytes = state.log.end, state.torn
        self._image, self._closed, self._failed = SegmentImage(state.shape), False, False
        self.tokens = self.sealed = state.segments * state.shape.segment_tokens
        for frame in state.log.frames:
            self._hold(frame)

    @classmethod
    def create(
        cls, folder: str | Path, shape: StoreShape, fsync=False, verify_reads=True, files: Files | None = None
    ) -> GhostStore:
        """Make an empty store in a folder, which must not hold one, and open it for writing.

        With `fsync` an append is acknowledged only once it is on the disk; without, it survives the death of the
        process and not of the machine. With `verify_reads` reads compare rows with their checksums. `files` is what
        writes; the kill experiment brings its own. Raises StoreError where the folder holds a store already.
        """
        folder, files = Path(folder), files or Files()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / layout.ROWS_FILE).exists():
            raise StoreError(
                f"{folder / layout.ROWS_FILE}: there is a store already, and creating one would lose it.\n"
                "  Write: GhostStore.open(folder, writable=True), or delete the folder"
            )
        store_id = os.urandom(16)
        header = bytearray(layout.pack_header(shape, store_id, layout.ROWS_MAGIC))
        for offset in layout.MARK_OFFSETS:
            header[offset : offset + layout.MARK_BYTES] = layout.pack_mark(0, 0, store_id)
        # The store is there once kv.bin is, and then its log must be.
        files.create(folder / layout.LOG_FILE, layout.pack_header(shape, store_id, layout.LOG_MAGIC), fsync)
        files.create(folder / layout.ROWS_FILE, bytes(header), fsync)
        return cls.open(folder, True, fsync, verify_reads, files=files)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        writable: bool = False,
        fsync: bool = False,
        verify_reads: bool = True,
        check: str = "records",
        files: Files | None = None,
    ) -> GhostStore:
        """Open a store, after checking it: `writable` for appending, by one process at a time; else for reading what
        is there now.

        Checks "records" (headers, records and the log) or "all" (every row of K and V too, a segment at a time); the
        rest is as for `create`. Raises StoreError where there is no store, another writer has it, or a file is
        damaged.
        """
        folder, files = Path(folder), files or Files()
        if check not in ("records", "all"):
            raise StoreError(f"GhostStore.open: check is {check!r}. Accepted: records, all.")
        rows, log = open_files(folder, writable)
        try:
            for look in range(_LOOKS):
                try:
                    state = recover(folder, rows, log, check == "all")
                    break
                except StoreError:
                    # A writer may have moved tokens from the log to a segment between our two reads.
                    if writable or look == _LOOKS - 1:
                        raise
            store = cls(folder, rows, log, state, writable, fsync, verify_reads, files)
            if writable:
                store._clean(state)
            return store
        except BaseException:
            os.close(rows)
            os.close(log)
            raise

    def append(
        self, keys: np.ndarray, values: np.ndarray | None = None, records: np.ndarray | None = None
    ) -> int:
        """Add tokens; the number that the store now holds. When this returns they are acknowledged: no kill loses
        them.

        Keys and values are [tokens, layers, kv_heads, head_dim or value_dim] of the store's dtype, records uint8
        [tokens, layers, kv_heads, record_bytes]; values and records are None where the store has none.

        Raises StoreError where a shape or dtype is not the store's, the store is not open for writing, or the disk
        refused a write (reopen it then: what was acknowledged is there).
        """
        self._alive()
        if not self.writable or self._failed:
            why = "an append failed before" if self._failed else "it is open for reading"
            raise StoreError(
                f"{self.file}: no appending, as {why}.\n  Write: GhostStore.open(folder, writable=True)"
            )
        batch = checked(self.shape, keys, values, records)
        self._failed, at, count = True, 0, len(keys)
        try:
            while at < count:
                step = min(count - at, self.shape.segment_tokens - (self.tokens - self.sealed))
                self._append(*rows_of(self.shape, batch, at, at + step))
                at += step
            if self.fsync and self._log_end > layout.LOG_START:
                self._files.sync(self._log)
            if count:
                self._acknowledge()
        except OSError as error:
            raise StoreError(
                f"{self.folder}: the disk refused a write ({error.strerror}). What was acknowledged before this append "
                "is safe.\n  Make room, then GhostStore.open(folder, writable=True)"
            ) from error
        self._failed = False
        return self.tokens

    def sync(self) -> None:
        """Put all that was acknowledged on the disk; with `fsync` it is there already."""
        self._alive()
        self._files.sync(self._rows)
        self._files.sync(self._log)

    def close(self) -> None:
        """Release the files; a second time does nothing."""
        if self._closed:
            return
        self._closed, self._words = True, NOTHING
        if self._readers is not None:
            self._readers.shutdown()
        for descriptor in (self._rows, self._log, self._direct):
            if descriptor is not None:
                os.close(descriptor)

    def __enter__(self) -> GhostStore:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def __len__(self) -> int:
        return self.tokens

    def _append(self, rows: np.ndarray, records: np.ndarray) -> None:
        """Tokens that fit the open segment: into the log, unless they fill a segment by themselves."""
        numbers = row_numbers(self.shape, self.tokens, len(rows))
        sums = checksums(rows.reshape(-1, rows.shape[-1]), numbers.ravel()).reshape(numbers.shape)
        frame = Frame(self.tokens, sums, records, rows)
        if frame.tokens < self.shape.segment_tokens:
            data = pack(frame, self._store_id)
            self._files.write(self._log, data, self._log_end)
            self._log_end += len(data)
        self._hold(frame)
        self._seal_if_full()

    def _hold(self, frame: Frame) -> None:
        """Take tokens into the open segment and the records in memory."""
        slot = slice(self.tokens - self.sealed, self.tokens - self.sealed + frame.tokens)
        sums, records = frame.checksums.T, frame.records.transpose(1, 0, 2)
        self._image.checksums[:, slot], self._image.records[:, slot] = sums, records
        self._image.rows[:, slot] = frame.rows.transpose(1, 0, 2)
        self._table.put(self.tokens, sums, records)
        self.tokens += frame.tokens

    def _seal_if_full(self) -> None:
        if self.tokens - self.sealed < self.shape.segment_tokens:
            return
        segment = self.sealed // self.shape.segment_tokens
        self._files.write(self._rows, self._image.finish(segment), self.shape.segment_offset(segment))
        if self.fsync:
            self._files.sync(self._rows)
        self.sealed = self.tokens
        if self._log_end > layout.LOG_START:
            self._files.truncate(self._log, layout.LOG_START)
            self._log_end = layout.LOG_START

    def _acknowledge(self) -> None:
        self._generation += 1
        mark = layout.pack_mark(self._generation, self.tokens, self._store_id)
        self._files.write(self._rows, mark, layout.MARK_OFFSETS[self._generation % 2])

    def _clean(self, state: Recovered) -> None:
        """Drop what a kill left: later appends must not stand beside remains that look whole."""
        ends = (self._rows, self.shape.segment_offset(state.segments)), (self._log, self._log_end)
        for descriptor, end in ends:
            if os.fstat(descriptor).st_size > end:
                self._files.truncate(descriptor, end)
                if self.fsync:
                    self._files.sync(descriptor)
        self._seal_if_full()
        if self.tokens > state.acknowledged:
            self._acknowledge()

    def _alive(self) -> None:
        if self._closed:
            raise StoreError(f"{self.file}: the store was closed.\n  Write: GhostStore.open(folder)")
