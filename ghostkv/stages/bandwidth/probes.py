"""What this machine's memory and disk really do: gathers timed, and the units that they touch counted by others.

Four instruments know nothing of the counts in `ghostkv.stages.bandwidth.tiers`: the page cache (`mincore`) says which pages of a file
a cold gather brought in; the kernel's account of the process (`/proc/self/io`) says how many bytes came from the
device; the accessed bits that the MMU sets (`Referenced` in smaps) say which pages of memory a gather touched; and a
loop that marks the unit of every word it loads does so for lines, which no counter of a virtual machine sees.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ghostkv.files.io import stable_seed
from ghostkv.stages.bandwidth.loops import gather, marked_gather, scan
from ghostkv.store.touched import bytes_read

LINE, PAGE = 64, mmap.PAGESIZE
_CHUNK = 1 << 26
_LIBC = ctypes.CDLL(None, use_errno=True)


class Memory:
    """A working set of `size` bytes in DRAM, far larger than the caches.

    The kernel may back it with 2 MiB pages if `huge`; counting accessed pages needs small ones.
    """

    def __init__(self, size: int, huge: bool = True):
        self._map = mmap.mmap(-1, size)
        self._map.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        self.words = np.frombuffer(self._map, np.uint64)
        # Written once: pages never written share one page of zeros.
        self.words[:] = np.arange(len(self.words), dtype=np.uint64)

    def gather(self, starts: np.ndarray, row_bytes: int) -> float:
        """Seconds to read rows at byte offsets `starts`."""
        words = starts // 8
        begin = time.perf_counter()
        gather(self.words, words, row_bytes // 8)
        return time.perf_counter() - begin

    def scan(self, start: int, size: int) -> float:
        """Seconds to read `size` bytes in order."""
        begin = time.perf_counter()
        scan(self.words, start // 8, size // 8)
        return time.perf_counter() - begin

    def lines(self, starts: np.ndarray, row_bytes: int) -> int:
        """Lines that a gather's loads fall in, marked load by load."""
        marks = np.zeros(len(self._map) // LINE + 1, np.uint8)
        marked_gather(self.words, starts // 8, row_bytes // 8, LINE.bit_length() - 1, marks)
        return int(np.count_nonzero(marks))

    def referenced_pages(self, starts: np.ndarray, row_bytes: int) -> int | None:
        """Pages whose accessed bit a gather sets; None where the kernel does not let a process ask."""
        gather(self.words, starts[:1] // 8, row_bytes // 8)
        try:
            Path("/proc/self/clear_refs").write_text("1")
            self._forget_translations()
            gather(self.words, starts // 8, row_bytes // 8)
            return _referenced(self.words.ctypes.data) // PAGE
        except (OSError, StopIteration):
            return None

    def _forget_translations(self) -> None:
        """Empty the TLB: a page whose translation it still holds is read without its bit being set again.

        The kernel does so when it takes a right away from pages, and not when it clears their bits.
        """
        for protection in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE):
            whole = ctypes.c_void_p(self.words.ctypes.data), ctypes.c_size_t(self.words.nbytes), protection
            if _LIBC.mprotect(*whole):
                raise OSError(ctypes.get_errno(), "mprotect")

    def close(self) -> None:
        """Give the memory back."""
        self.words = None
        self._map.close()


class DiskFile:
    """A file of `size` random bytes, read so that every byte comes from the device."""

    def __init__(self, path: str | Path, size: int):
        self.path, self.size = Path(path), size
        rng = np.random.default_rng(stable_seed("bandwidth", size))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "wb") as file:
            block = rng.integers(0, 2**63, min(size, _CHUNK) // 8).astype(np.uint64)
            for begin in range(0, size, _CHUNK):
                # Every chunk differs, so that nothing on the way can keep one for all.
                file.write((block ^ np.uint64(begin + 1)).tobytes()[: size - begin])
            file.flush()
            os.fsync(file.fileno())
        self._plain, self._direct = os.open(self.path, os.O_RDONLY), self._open_direct()

    def _open_direct(self) -> int | None:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        except OSError:  # not every file system has it; tmpfs before Linux 6.6 for one
            return None
        try:
            os.preadv(descriptor, [mmap.mmap(-1, PAGE)], 0)
        except OSError:  # some take the flag and refuse the read
            os.close(descriptor)
            return None
        return descriptor

    @property
    def direct(self) -> bool:
        """Whether O_DIRECT works here."""
        return self._direct is not None

    def drop(self) -> None:
        """Ask the kernel to forget the file's pages."""
        os.posix_fadvise(self._plain, 0, 0, os.POSIX_FADV_DONTNEED)

    def cold(self) -> bool:
        """Whether, once dropped, no page of the file is in memory; a file system in memory keeps them all."""
        self.drop()
        with self._mapped() as data:
            return not _resident(data)

    def read_direct(self, offsets: np.ndarray, size: int, depth: int) -> tuple[float, int]:
        """Seconds, and bytes that the kernel accounts, of aligned direct reads by `depth` threads."""
        requests = offsets.tolist()
        buffers = [mmap.mmap(-1, size) for _ in range(depth)]

        def work(thread: int) -> None:
            buffer = [buffers[thread]]
            for offset in requests[thread::depth]:
                os.preadv(self._direct, buffer, offset)

        with ThreadPoolExecutor(depth) as pool:
            list(pool.map(time.sleep, [0.001] * depth))  # threads start before the clock does
            before, begin = bytes_read(), time.perf_counter()
            list(pool.map(work, range(depth)))
            seconds = time.perf_counter() - begin
        return seconds, bytes_read() - before

    def read_mapped(self, starts: np.ndarray, row_bytes: int) -> tuple[float, int]:
        """Seconds of a gather from the cold memory-mapped file, and the pages in memory afterwards.

        Seconds are NaN, and pages 0, where pages of the rows were in memory before: that gather is of memory.
        """
        self.drop()
        with self._mapped() as data:
            first, last = starts.min() // PAGE * PAGE, starts.max() + row_bytes
            if _resident(data[first:last]):
                return np.nan, 0
            words = data.view(np.uint64)
            begin = time.perf_counter()
            gather(words, starts // 8, row_bytes // 8)
            seconds = time.perf_counter() - begin
            pages = _resident(data)
            del words
        return seconds, pages

    @contextmanager
    def _mapped(self) -> Iterator[np.ndarray]:
        # Unmapped with the last array that looks into it.
        mapped = mmap.mmap(self._plain, self.size, prot=mmap.PROT_READ)
        mapped.madvise(mmap.MADV_RANDOM)  # no read-ahead: what is not asked for is not read
        yield np.frombuffer(mapped, np.uint8)

    def close(self) -> None:
        """Remove the file."""
        for descriptor in (self._plain, self._direct):
            if descriptor is not None:
                os.close(descriptor)
        self.path.unlink(missing_ok=True)


def rows_at(chosen: np.ndarray, row_bytes: int) -> np.ndarray:
    """Byte offsets of rows stored one after the other."""
    return np.asarray(chosen, np.int64) * row_bytes


def random_rows(universe: int, share: float, seed: int) -> np.ndarray:
    """Rows read with probability `share` each, ascending; at least one."""
    found = np.flatnonzero(np.random.default_rng(seed).random(universe) < share)
    return found if found.size else np.zeros(1, np.int64)


def tiled(patterns: Sequence[np.ndarray], tokens: int, universe: int, order: np.ndarray) -> np.ndarray:
    """Survivors of many queries in a cache of many sequences: a pattern in each block of `tokens` of the `universe`
    rows.

    Patterns are positions below `tokens`, ascending; `order` says which each block takes, repeated as often as
    needed.
    """
    blocks = max(1, universe // tokens)
    return np.concatenate(
        [patterns[order[block % len(order)]].astype(np.int64) + block * tokens for block in range(blocks)]
    )


def _resident(data: np.ndarray) -> int:
    pages = np.zeros(-(-data.nbytes // PAGE), np.uint8)
    address, length = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes)
    if _LIBC.mincore(address, length, ctypes.c_void_p(pages.ctypes.data)):
        raise OSError(ctypes.get_errno(), "mincore failed")
    return int(np.count_nonzero(pages & 1))


def _referenced(address: int) -> int:
    """`Referenced` bytes of the mapping that begins at an address."""
    inside = False
    with open("/proc/self/smaps") as file:
        for line in file:
            head = line.split(maxsplit=1)[0]
            if "-" in head and not head.endswith(":"):
                low, high = (int(part, 16) for part in head.split("-"))
                inside = low <= address < high
            elif inside and head == "Referenced:":
                return 1024 * int(line.split()[1])
    raise StopIteration
