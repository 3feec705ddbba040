"""What the store costs: gathers beside NumPy in memory, appends with and without waiting for the disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.files.io import stable_seed
from ghostkv.stages.store.workload import Contents, store_shape
from ghostkv.store import GhostStore

if TYPE_CHECKING:
    from ghostkv.stages.store.jobs import TimeStore

# A timing is the mean over as many calls as fill this many seconds.
_LEAST_SECONDS = 0.004
# Different survivors in successive calls, so that the processor's own cache does not answer for memory.
_SETS = 16
# Rows of contents, which repeat; a prime, so that a segment never holds the same as another.
_ROWS = 4099
_APPEND_AT_ONCE = 4096


def gathers(folder: Path, job: TimeStore) -> Iterator[dict]:
    """Time gathers of one head's survivors: through the map with and without checksums, by blocks, and NumPy's fancy
    index of the same rows in memory; columns of `GATHER_SCHEMA`.
    """
    tokens = job.gather_tokens
    contents = Contents.random(store_shape(job, 1, 64), min(_ROWS, tokens), job.seed)
    with GhostStore.create(folder / "gather", contents.shape) as store:
        for first in range(0, tokens, _APPEND_AT_ONCE):
            store.append(*contents.tokens(first, min(first + _APPEND_AT_ONCE, tokens)))
    keys, values, _ = contents.tokens(0, tokens)
    memory = np.concatenate([keys[:, 0, 0], values[:, 0, 0]], axis=-1)
    with GhostStore.open(folder / "gather") as store:
        methods = {
            "memory": lambda chosen: memory[chosen],
            "map": lambda chosen: store.gather(0, 0, chosen, verify=False),
            "map_verified": lambda chosen: store.gather(0, 0, chosen, verify=True),
            "blocks": lambda chosen: store.read(0, 0, chosen, verify=False),
        }
        store.gather(0, 0, np.arange(tokens))  # compiles, and brings every page in
        for spread in ("scattered", "clustered"):
            for rows in job.batches:
                sets = [_survivors(rows, tokens, spread, job, number) for number in range(_SETS)]
                reads = [store.plan(0, 0, chosen) for chosen in sets]
                about = {"spread": spread, "rows": rows} | {
                    name: int(np.median([getattr(read, name) for read in reads]))
                    for name in ("wanted_bytes", "blocks", "requests")
                }
                for repeat in range(job.repeats):
                    seconds = {name: _timed(work, sets) for name, work in methods.items()}
                    for name, spent in seconds.items():
                        yield about | {
                            "method": name,
                            "repeat": repeat,
                            "seconds": spent,
                            "rows_per_second": rows / spent,
                            "bytes_per_second": rows * store.shape.row_bytes / spent,
                            "ratio": spent / seconds["memory"],
                        }


def appends(folder: Path, job: TimeStore) -> Iterator[dict]:
    """Time appends of all layers by batch size, acknowledged by the page cache or by the disk; columns of
    `APPEND_SCHEMA`.
    """
    shape, tokens = store_shape(job, job.append_layers, 64), job.append_tokens
    contents = Contents.random(shape, tokens, job.seed)
    size = shape.heads * (shape.row_bytes + shape.record_bytes)
    for fsync in (False, True):
        for batch in job.append_batches:
            batch = min(batch, tokens)
            for repeat in range(job.repeats):
                parts = [contents.tokens(at, min(at + batch, tokens)) for at in range(0, tokens, batch)]
                with GhostStore.create(folder / "append", shape, fsync=fsync) as store:
                    before = time.perf_counter()
                    for part in parts:
                        store.append(*part)
                    seconds = time.perf_counter() - before
                shutil.rmtree(folder / "append")
                yield {
                    "fsync": fsync,
                    "batch": batch,
                    "repeat": repeat,
                    "tokens": tokens,
                    "seconds": seconds,
                    "tokens_per_second": tokens / seconds,
                    "bytes_per_second": tokens * size / seconds,
                    "seconds_per_append": seconds / len(parts),
                }


def _survivors(rows: int, tokens: int, spread: str, job: TimeStore, number: int) -> np.ndarray:
    """Positions of survivors, ascending and distinct: single ones, or whole runs that start at their multiples."""
    rng = np.random.default_rng(stable_seed("survivors", job.seed, rows, spread, number))
    if spread == "scattered":
        return np.sort(rng.choice(tokens, rows, replace=False))
    run = min(job.run_tokens, rows)
    starts = rng.choice(tokens // run, min(-(-rows // run), tokens // run), replace=False) * run
    return np.sort((starts[:, None] + np.arange(run)).ravel())[:rows]


def _timed(work: Callable, sets: Sequence[np.ndarray]) -> float:
    calls, before = 0, time.perf_counter()
    while True:
        for chosen in sets:
            work(chosen)
        calls += len(sets)
        spent = time.perf_counter() - before
        if spent >= _LEAST_SECONDS:
            return spent / calls
