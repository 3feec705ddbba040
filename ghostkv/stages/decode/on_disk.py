"""A decode through a real store: every token is appended as it comes, every step's survivors are gathered back, and
those that a policy keeps on disk alone are read from the device, with the kernel's own account beside the count."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import Records
from ghostkv.stages.decode.lifecycle import StepReads
from ghostkv.store import GhostStore, StoreShape
from ghostkv.store.layout import PAGE
from ghostkv.store.touched import bytes_read, touched


@dataclass(frozen=True)
class Device:
    """How the disk under a file can be read, and whether the reads can be checked."""

    direct: bool  # reads past the page cache (O_DIRECT) work
    # The kernel's account of this process grows by them. Where it does not (tmpfs, some network and virtual
    # file systems, a sandbox), the bytes read are not known.
    accounted: bool

    @classmethod
    def under(cls, file: str | Path) -> Device:
        """Find out with a read of the file's first block, which is done here and not by the store."""
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT)
        except OSError:
            return cls(False, False)
        try:
            # A file that was just written may have to reach the disk first; that is no read.
            with mmap.mmap(-1, PAGE) as buffer:
                before = bytes_read()
                if os.preadv(descriptor, [buffer], 0) != PAGE:
                    return cls(False, False)
                seen = bytes_read() - before
        except OSError:
            return cls(False, False)
        finally:
            os.close(descriptor)
        return cls(True, seen >= PAGE)


def run_store(
    folder: str | Path,
    capture: LayerCapture,
    records: Sequence[Records],
    reads: Sequence[StepReads],
    archived: Sequence[np.ndarray],
    every: int,
    segment: int,
    tick: Callable[[int], object] = lambda steps: None,
) -> list[dict]:
    """Decode one layer through a `GhostStore` in `folder`, which is removed afterwards; columns of `STORE_SCHEMA` but
    for `layer` and `policy`.

    The capture has values; `records`, `reads` and what of them was `archived` come once for each KV head. Every `every`-th step reads its
    archived survivors from the device. A segment of the store has `segment` tokens. `tick` is told how many steps
    were done.
    """
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    keys, values = (part.transpose(1, 0, 2)[:, None] for part in (capture.keys, capture.values))
    packed = np.stack([np.concatenate([r.code, r.rho[:, None]], axis=1) for r in records], axis=1)[:, None]
    shape = StoreShape(
        layers=1,
        kv_heads=capture.kv_heads,
        head_dim=keys.shape[-1],
        value_dim=values.shape[-1],
        record_bytes=packed.shape[-1],
        dtype=str(keys.dtype),
        segment_tokens=segment,
    )
    rows, first = [], int(capture.positions[0])
    try:
        with GhostStore.create(folder, shape) as store:
            store.append(keys[:first], values[:first], packed[:first])
            device = Device.under(store.file)
            for step, position in enumerate(capture.positions.tolist()):
                new = slice(position, position + 1)
                begun = perf_counter()
                store.append(keys[new], values[new], packed[new])
                appended = perf_counter() - begun
                row = {"step": step, "append_seconds": appended}
                row |= _gather(store, capture, *_wanted(reads, step))
                if step % every == 0:
                    row |= _from_disk(store, capture, device, *_wanted(reads, step, archived))
                rows.append(row)
                tick(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def _wanted(
    reads: Sequence[StepReads], step: int, chosen: Sequence[np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """KV head and position of every survivor of a step, or of those that are chosen."""
    found = []
    for number, one in enumerate(reads):
        part = slice(one.ends[step - 1] if step else 0, one.ends[step])
        found.append(one.keys[part] if chosen is None else one.keys[part][chosen[number][part]])
    heads = np.repeat(np.arange(len(reads)), [len(keys) for keys in found])
    return heads, np.concatenate(found).astype(np.int64)


def _wrong(capture: LayerCapture, heads, positions, keys, values) -> int:
    """Rows that differ from the capture in any bit."""
    wrong = (keys.view(np.uint16) != capture.keys[heads, positions].view(np.uint16)).any(axis=1)
    wrong |= (values.view(np.uint16) != capture.values[heads, positions].view(np.uint16)).any(axis=1)
    return int(wrong.sum())


def _gather(store: GhostStore, capture: LayerCapture, heads: np.ndarray, positions: np.ndarray) -> dict:
    begun = perf_counter()
    keys, values = store.gather(0, heads, positions)
    seconds = perf_counter() - begun
    wrong = _wrong(capture, heads, positions, keys, values)
    return {"rows": len(positions), "wrong_rows": wrong, "gather_seconds": seconds}


def _from_disk(
    store: GhostStore, capture: LayerCapture, device: Device, heads: np.ndarray, positions: np.ndarray
) -> dict:
    """Read archived survivors: by blocks past the page cache where that works, else through the map.

    What is counted comes from the addresses and the memory model (`memory.touched`), what was read from the kernel;
    the store's own plan of the reads has no part in either.
    """
    if not len(positions):
        return {"archived_rows": 0, "archived_wrong_rows": 0, "archived_bytes": 0}
    offsets = store.offsets(0, heads, positions)
    blocks = touched(np.sort(offsets[offsets >= 0]), store.shape.row_bytes, PAGE)
    before, begun = bytes_read(), perf_counter()
    if device.direct:
        got = store.read(0, heads, positions, block=PAGE, direct=True)
        keys, values = got.keys, got.values
    else:
        keys, values = store.gather(0, heads, positions)
    seconds, read = perf_counter() - begun, bytes_read() - before
    return {
        "archived_rows": len(positions),
        "archived_wrong_rows": _wrong(capture, heads, positions, keys, values),
        "archived_bytes": len(positions) * store.shape.row_bytes,
        "direct": device.direct,
        "requests": blocks.requests,
        "counted_bytes": blocks.size,
        "read_bytes": read if device.direct and device.accounted else None,
        "archive_seconds": seconds,
    }
