"""A decode through a real store: every token is appended as it comes, every step's survivors are gathered from disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from ghostkv.captures import LayerCapture
from ghostkv.codecs import Records
from ghostkv.lifecycle import Reads
from ghostkv.store import GhostStore, StoreShape


def run_store(
    folder: str | Path,
    capture: LayerCapture,
    records: Sequence[Records],
    reads: Sequence[Reads],
    every: int,
    segment: int,
    tick: Callable[[int], object] = lambda steps: None,
) -> list[dict]:
    """Decode one layer through a `GhostStore`, which is removed afterwards.

    Parameters
    ----------
    folder : str or Path
        Where the store lies meanwhile.
    capture : LayerCapture
        With values.
    records, reads : sequence
        One for each KV head.
    every : int
        Every so-manieth step is read again by whole blocks, which counts the bytes that the file gives.
    segment : int
        Tokens of a segment of the store.
    tick : callable
        Told how many steps were done.

    Returns
    -------
    list of dict
        Columns of `decode_tables.STORE_SCHEMA` but for `layer`.
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
            for step, position in enumerate(capture.positions.tolist()):
                new = slice(position, position + 1)
                begun = perf_counter()
                store.append(keys[new], values[new], packed[new])
                appended = perf_counter() - begun
                row = _gather(store, capture, reads, step)
                if step % every == 0:
                    row |= _blocks(store, reads, step)
                rows.append(row | {"step": step, "append_seconds": appended})
                tick(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def _wanted(reads: Sequence[Reads], step: int) -> tuple[np.ndarray, np.ndarray]:
    """KV head and position of every survivor of a step."""
    chosen = [one.keys[one.ends[step - 1] if step else 0 : one.ends[step]] for one in reads]
    heads = np.repeat(np.arange(len(reads)), [len(keys) for keys in chosen])
    return heads, np.concatenate(chosen).astype(np.int64)


def _gather(store: GhostStore, capture: LayerCapture, reads: Sequence[Reads], step: int) -> dict:
    heads, positions = _wanted(reads, step)
    begun = perf_counter()
    keys, values = store.gather(0, heads, positions)
    seconds = perf_counter() - begun
    wrong = (keys.view(np.uint16) != capture.keys[heads, positions].view(np.uint16)).any(axis=1)
    wrong |= (values.view(np.uint16) != capture.values[heads, positions].view(np.uint16)).any(axis=1)
    return {
        "rows": len(positions),
        "wrong_rows": int(wrong.sum()),
        "counted_bytes": len(positions) * store.row_bytes,
        "gathered_bytes": keys.nbytes + values.nbytes,
        "gather_seconds": seconds,
    }


def _blocks(store: GhostStore, reads: Sequence[Reads], step: int) -> dict:
    heads, positions = _wanted(reads, step)
    begun = perf_counter()
    touched = store.read(0, heads, positions).reads
    return {
        "block_seconds": perf_counter() - begun,
        "block_rows_bytes": touched.wanted_bytes + touched.memory_rows * store.row_bytes,
        "block_bytes": touched.bytes,
        "requests": touched.requests,
    }
