"""What an append is given: checked against the store's shape, and laid out as rows."""

from __future__ import annotations

import numpy as np

from ghostkv.files.errors import StoreError
from ghostkv.store.layout import StoreShape

Batch = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


def checked(shape: StoreShape, keys, values, records) -> Batch:
    """The arrays of an append, as `GhostStore.append` takes them, if they are what the store holds.

    Raises StoreError where a dtype or shape differs; nothing is cast, as a store gives back the bits that it was
    given.
    """
    dtype, tokens = np.dtype(shape.dtype), len(keys) if np.ndim(keys) else 0
    wanted = {
        "keys": (keys, shape.head_dim, dtype),
        "values": (values, shape.value_dim, dtype),
        "records": (records, shape.record_bytes, np.dtype(np.uint8)),
    }
    for name, (array, width, kind) in wanted.items():
        if array is None and width == 0:
            continue
        accepted = (tokens, shape.layers, shape.kv_heads, width)
        found = getattr(array, "dtype", type(array).__name__), getattr(array, "shape", None)
        if found != (kind, accepted):
            fix = f"{name}.astype(np.{kind}), with the axes in that order" if width else f"{name}=None"
            raise StoreError(
                f"GhostStore.append: {name} has dtype {found[0]} and shape {found[1]}. Accepted: {kind} and "
                f"{accepted}, which is [tokens, layers, kv_heads, width].\n  Write: {fix}"
            )
    return keys, values, records


def rows_of(shape: StoreShape, batch: Batch, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens start..stop of a batch as the file holds them.

    Rows, uint64 [tokens, heads, row words], are K, V, and zeros up to a whole word; records are uint8 [tokens, heads,
    record_bytes].
    """
    keys, values, records = batch
    count, heads, first = stop - start, shape.heads, shape.head_dim
    row = shape.row_bytes // np.dtype(shape.dtype).itemsize
    rows = np.zeros((count, heads, row), shape.dtype)
    rows[..., :first] = keys[start:stop].reshape(count, heads, first)
    if shape.value_dim:
        rows[..., first : first + shape.value_dim] = values[start:stop].reshape(count, heads, shape.value_dim)
    if records is None:
        records = np.zeros((stop, heads, 0), np.uint8)
    return rows.view(np.uint64), records[start:stop].reshape(count, heads, shape.record_bytes)
