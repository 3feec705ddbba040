"""Reading survivors back: by the memory map, or by whole blocks that are counted."""

from __future__ import annotations

import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ghostkv.files.errors import StoreError
from ghostkv.store.checksums import checksums, copy_rows
from ghostkv.store.faults import REPAIR, damaged
from ghostkv.store.files import read_into
from ghostkv.store.layout import PAGE, WORD, SegmentImage, StoreShape
from ghostkv.store.pending import Gathered, Pending, Rooms, Runs, read_runs
from ghostkv.store.plan import Reads, runs_of
from ghostkv.store.recovery import describe_row, row_fault
from ghostkv.store.table import RecordTable

NOTHING = np.zeros(0, np.uint64)
NOTHING.flags.writeable = False
# Threads that read for one store; a thread is started when it is first needed.
_MOST_THREADS = 64


class RowReader:
    """The reading half of a store; `GhostStore` sets its attributes."""

    folder: Path
    file: Path
    shape: StoreShape
    tokens: int
    sealed: int
    verify_reads: bool

    _rows: int
    _table: RecordTable
    _image: SegmentImage
    _words: np.ndarray = NOTHING
    _direct: int | None = None
    _readers: ThreadPoolExecutor | None = None
    _rooms: Rooms

    def records(self, layer: int, kv_head: int) -> np.ndarray:
        """Ghost records of one head as of now, read-only uint8, shape [tokens, record_bytes]."""
        heads, _, _ = self._locate(layer, kv_head, np.zeros(0, np.int64), one=True)
        view = self._table.records[heads, : self.tokens]
        view.flags.writeable = False
        return view

    def gather(
        self, layer, kv_head, positions, verify: bool | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Read rows through the memory map: keys [..., head_dim] and values [..., value_dim], or None.

        Layer, KV head and positions, integers or arrays of them, are broadcast together; any order, repeats allowed.
        Each row is compared with its checksum if `verify`, or as the store was opened. Raises StoreError where an
        index is outside the store, or a row does not match its checksum.
        """
        heads, tokens, outer = self._locate(layer, kv_head, positions)
        at = self.shape.addresses(heads, tokens) // WORD
        self._map()
        rows = self._copied(self._words, at, heads, tokens)
        self._verify(rows, heads, tokens, self._expected(heads, tokens, verify))
        return self._split(rows, outer)[1:]

    def read(
        self, layer, kv_head, positions, block=PAGE, gap=0, direct=False, verify: bool | None = None
    ) -> Gathered:
        """Read rows by whole blocks of the file, in ascending order and merged to runs; arguments as for `gather`.

        A block is a multiple of 8 bytes, of 4,096 where `direct`: past the page cache, from the device (O_DIRECT). Up
        to `gap` unwanted blocks between two wanted ones are read rather than asked around. Raises StoreError as
        `gather` does; or where the file ends, or its file system has no O_DIRECT.
        """
        return self._ask(layer, kv_head, positions, block, gap, direct, verify, None, 1).result()

    def begin(
        self,
        layer,
        kv_head,
        positions,
        block=PAGE,
        gap=0,
        direct=False,
        verify: bool | None = None,
        threads=8,
    ) -> Pending:
        """Begin what `read` does, by so many threads, and return at once; `Pending.result` waits for the rows.

        They are the rows of now, whatever is appended meanwhile, and `close` waits for them. A row that is damaged, or a file
        that ends, raises StoreError when the result is asked for; any other error of `read` here, and `threads` out of range.
        """
        if not 1 <= threads <= _MOST_THREADS:
            raise StoreError(f"GhostStore.begin: threads is {threads}. Accepted: 1 to {_MOST_THREADS}.")
        self._alive()
        if self._readers is None:
            self._readers = ThreadPoolExecutor(_MOST_THREADS, "store")
        return self._ask(layer, kv_head, positions, block, gap, direct, verify, self._readers.submit, threads)

    def _ask(self, layer, kv_head, positions, block, gap, direct, verify, submit, threads) -> Pending:
        """Read rows in so many parts, each handed to `submit`, or done here."""
        heads, tokens, outer = self._locate(layer, kv_head, positions)
        offsets = self._offsets(heads, tokens)
        first, counts, reads = runs_of(offsets, self.shape.row_bytes, block, gap)
        if direct and block % PAGE:
            raise StoreError(
                f"GhostStore.read: block is {block}. Accepted with direct=True: multiples of {PAGE}."
            )
        runs = Runs.of(first, counts, block, self._rooms)
        run_of = np.searchsorted(first, offsets // block, "right") - 1
        descriptor = self._direct_descriptor() if direct else self._rows
        end = self.shape.segment_offset(self.sealed // self.shape.segment_tokens)
        rows = np.empty((len(tokens), self.shape.row_bytes // WORD), np.uint64)
        expected = self._expected(heads, tokens, verify)

        def take(chosen: np.ndarray, words: np.ndarray, at: np.ndarray) -> None:
            part = self._copied(words, at, heads[chosen], tokens[chosen])
            self._verify(
                part, heads[chosen], tokens[chosen], expected if expected is None else expected[chosen]
            )
            rows[chosen] = part

        def work(part: range) -> np.ndarray:
            number = part.start
            while (number := read_runs(descriptor, runs, range(number, part.stop))) < part.stop:
                self._fill(runs, number, descriptor, end)
                number += 1
            chosen = np.flatnonzero((run_of >= part.start) & (run_of < part.stop))
            run, words = run_of[chosen], _frozen(runs.room.view(np.uint64))
            take(chosen, words, (runs.starts[run] + offsets[chosen] - runs.first[run] * block) // WORD)
            return chosen

        # Rows of the tail are copied here: the next append may move them to the file.
        in_tail = np.flatnonzero(offsets < 0)
        if in_tail.size:
            take(in_tail, NOTHING, in_tail)
        waiting = []
        for part in runs.parts(threads):
            if submit is None:
                work(part)
            else:
                waiting.append(submit(work, part))
        found = Gathered(*self._split(rows, outer), reads)
        return Pending(waiting, in_tail, found, lambda: self._rooms.give_back(runs.room))

    def _fill(self, runs: Runs, number: int, descriptor: int, end: int) -> None:
        """Read one run of blocks, or say why not; only the last may lack what lies beyond the `end` of the sealed segments."""
        start, stop = runs.starts[number : number + 2].tolist()
        offset = int(runs.first[number]) * runs.block
        found = read_into(descriptor, runs.room[start:stop], offset)
        if found < min(stop - start, end - offset):
            raise damaged(
                self.file, offset + found, f"the file ends before its {self.sealed} sealed tokens", REPAIR
            )

    def plan(self, layer, kv_head, positions, block: int = PAGE, gap: int = 0) -> Reads:
        """What `read` would touch, counted and not read."""
        heads, tokens, _ = self._locate(layer, kv_head, positions)
        return runs_of(self._offsets(heads, tokens), self.shape.row_bytes, block, gap)[2]

    def offsets(self, layer, kv_head, positions) -> np.ndarray:
        """Byte offset in `file` of each row, K then V; -1 for tokens that lie in the tail."""
        heads, tokens, outer = self._locate(layer, kv_head, positions)
        return self._offsets(heads, tokens).reshape(outer)

    def check(self) -> None:
        """Verify every row, a segment at a time; StoreError names the first that does not match its checksum."""
        self._alive()
        image, size = SegmentImage(self.shape), self.shape.segment_tokens
        for segment in range(self.sealed // size):
            image.checksums[...] = self._table.checksums[:, segment * size : (segment + 1) * size]
            fault = row_fault(self._rows, image, segment)
            if fault:
                raise damaged(self.file, *fault, REPAIR)

    def _locate(self, layer, kv_head, positions, one=False):
        """Head number and token of each row, flat, and the shape that the caller asked in."""
        self._alive()
        given = {"layer": layer, "kv_head": kv_head, "positions": positions}
        room = {"layer": self.shape.layers, "kv_head": self.shape.kv_heads, "positions": self.tokens}
        arrays = {name: np.asarray(value) for name, value in given.items()}
        for name, array in arrays.items():
            if array.size and (
                array.dtype.kind not in "iu" or int(array.min()) < 0 or int(array.max()) >= room[name]
            ):
                raise StoreError(
                    f"{self.file}: {name} asks for {_shown(array)}, dtype {array.dtype}. Accepted: whole numbers "
                    f"from 0 to {room[name] - 1}; the store holds {self.tokens} tokens."
                )
        head = arrays["layer"].astype(np.int64) * self.shape.kv_heads + arrays["kv_head"].astype(np.int64)
        if one:
            return int(head), None, None
        heads, tokens = np.broadcast_arrays(head, arrays["positions"].astype(np.int64))
        return heads.ravel(), tokens.ravel(), heads.shape

    def _offsets(self, heads: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        return np.where(tokens < self.sealed, self.shape.addresses(heads, tokens), -1)

    def _copied(self, words: np.ndarray, at: np.ndarray, heads: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Rows from word `at` of `words`, or from the tail where the token is not sealed."""
        width = self.shape.row_bytes // WORD
        if self.tokens > self.sealed:
            in_tail = (heads * self.shape.segment_tokens + tokens - self.sealed) * width
            at = np.where(tokens < self.sealed, at, -1 - in_tail)
        rows = np.empty((len(tokens), width), np.uint64)
        copy_rows(words, _frozen(self._image.rows.reshape(-1)), at, rows)
        return rows

    def _expected(self, heads: np.ndarray, tokens: np.ndarray, verify: bool | None) -> np.ndarray | None:
        """Checksums that rows must have; None where they are not to be verified."""
        wanted = self.verify_reads if verify is None else verify
        return self._table.checksums[heads, tokens] if wanted else None

    def _verify(self, rows, heads: np.ndarray, tokens: np.ndarray, expected: np.ndarray | None) -> None:
        if expected is None:
            return
        wrong = checksums(rows, self.shape.numbers(heads, tokens).astype(np.uint32)) != expected
        if wrong.any():
            head, token = (int(part[wrong.argmax()]) for part in (heads, tokens))
            where = int(self.shape.addresses(np.int64(head), np.int64(token)))
            raise damaged(self.file, where, describe_row(self.shape, head, token), REPAIR)

    def _split(
        self, rows: np.ndarray, outer: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The numbers of rows, and K and V among them."""
        elements = rows.view(self.shape.dtype)
        elements = elements.reshape(*outer, elements.shape[-1])
        first, last = self.shape.head_dim, self.shape.head_dim + self.shape.value_dim
        return elements, elements[..., :first], elements[..., first:last] if self.shape.value_dim else None

    def _map(self) -> None:
        """Map the sealed segments, anew when there are more of them."""
        size = self.shape.segment_offset(self.sealed // self.shape.segment_tokens) if self.sealed else 0
        if self._words.nbytes == size:
            return
        found = os.fstat(self._rows).st_size
        # Reading a page beyond the end of a mapped file is a SIGBUS and no exception.
        if found < size:
            raise damaged(self.file, found, f"the file ends before its {self.sealed} sealed tokens", REPAIR)
        mapped = mmap.mmap(self._rows, size, prot=mmap.PROT_READ)
        # Survivors are scattered: to read ahead of them is to read what was eliminated.
        mapped.madvise(mmap.MADV_RANDOM)
        self._words = np.frombuffer(mapped, np.uint64)

    def _direct_descriptor(self) -> int:
        if self._direct is None:
            try:
                self._direct = os.open(self.file, os.O_RDONLY | os.O_DIRECT)
            except OSError as error:
                raise StoreError(
                    f"{self.file}: its file system refuses O_DIRECT ({error.strerror}). Read with direct=False, or keep "
                    "the store on ext4 or xfs."
                ) from None
        return self._direct

    def _alive(self) -> None:
        raise NotImplementedError


def _frozen(array: np.ndarray) -> np.ndarray:
    # One signature of the compiled copy for files, buffers and tails.
    array = array.view()
    array.flags.writeable = False
    return array


def _shown(array: np.ndarray) -> str:
    return str(array) if array.ndim == 0 else f"{array.min()} to {array.max()}"
