"""The lab's own store as one more tier that is timed and counted: survivors read from its file past the page cache."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ghostkv.files.errors import StoreError
from ghostkv.stages.bandwidth.bench import Bench, Comparisons
from ghostkv.stages.bandwidth.probes import PAGE, random_rows
from ghostkv.store import GhostStore, StoreShape
from ghostkv.store.touched import bytes_read

# Rows of 256 B, as of a head of width 64; no more of them than these.
_WIDTH, _TOKENS, _CHUNK = 64, 1 << 17, 1 << 13


@contextmanager
def store_configurations(
    bench: Bench, counts: Comparisons, folder: Path, survivors: Sequence[np.ndarray], tokens: int
) -> Iterator[None]:
    """Fill a store, add its configurations and compare its bytes; the store lives in `folder` as long as the context.

    Survivors are real index patterns below `tokens`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shape = StoreShape(1, 1, _WIDTH, _WIDTH, 0, "float16", 64)
    size = min(_TOKENS, (bench.options.file_mb << 20) // shape.row_bytes // 2) // 64 * 64
    try:
        with GhostStore.create(folder, shape) as store:
            rng = np.random.default_rng(bench.seed("store"))
            for begin in range(0, size, _CHUNK):
                rows = rng.normal(size=(2, min(_CHUNK, size - begin), 1, 1, _WIDTH)).astype(np.float16)
                store.append(*rows)
            for pattern, positions, span in _positions(bench, survivors, min(tokens, size), size):
                if not _add(bench, counts, store, pattern, positions, span):
                    break
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _positions(bench: Bench, survivors: Sequence[np.ndarray], tokens: int, size: int):
    in_page = 16
    for share in bench.options.shares:
        for part in (0.25, 1.0):
            pages = part * bench.options.requests / (1 - (1 - share) ** in_page)
            span = min(size, int(pages * in_page))
            yield "random", random_rows(span, share, bench.seed("store", share, part)), span
    for index in range(min(4, len(survivors))):
        chosen = survivors[index * len(survivors) // 4]
        if (chosen < tokens).any():
            yield "survivors", chosen[chosen < tokens], tokens


def _add(
    bench: Bench, counts: Comparisons, store: GhostStore, pattern: str, positions: np.ndarray, span: int
) -> bool:
    """Add one configuration; False where the store cannot be read past the page cache, so that there is no tier."""
    starts, row = store.offsets(0, 0, positions), store.shape.row_bytes

    def once(turn: int) -> float:
        begin = time.perf_counter()
        store.read(0, 0, positions, direct=True)
        return time.perf_counter() - begin

    about = {"tier": "store", "pattern": pattern, "row_bytes": row}
    store.read(0, 0, positions)  # a damaged store is a fault of the lab, and no lack of O_DIRECT
    try:
        once(0)
    except (OSError, StoreError) as error:
        print(f"store: left out. {error}", flush=True)
        return False
    bench.add(about | {"share": len(positions) / span, "depth": 1}, starts, row, PAGE, True, once)
    before = bytes_read()
    once(0)
    instrument = {"instrument": "/proc/self/io", "unit": PAGE}
    counts.add(about | instrument, starts, span, bytes_read() - before)
    return True
