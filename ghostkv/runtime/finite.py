"""A call of attention that is not defined is refused, and names layer and head."""

from __future__ import annotations

import numpy as np

from ghostkv.captures.finite import LARGEST
from ghostkv.files.compiled import njit
from ghostkv.files.errors import ModelError
from ghostkv.runtime.lanes import number
from ghostkv.runtime.stored import stored

_NAMES = ("query", "key", "value", "output")


def refuse_unfit(
    layer: int, arrays: tuple[np.ndarray, ...], out: np.ndarray, first: np.ndarray, past: int, begin: int
) -> None:
    """Refuse what is not a number, or beyond `LARGEST`, in queries, keys, values or output.

    Parameters
    ----------
    arrays : tuple of ndarray
        `query`, `keys` and `values` of a `Call`, with its `first` and `past`.
    out : ndarray of float32, shape [batch, queries, heads, value_dim]
        No queries before there is an output.
    begin : int
        Keys and values of earlier tokens have been looked at.

    Raises
    ------
    ModelError
        With layer and head.
    """
    query, keys, values = arrays
    what, head, token = _first_unfit(query, stored(keys), stored(values), out, first, past, begin)
    if what < 0:
        return
    owner = "KV head" if what in (1, 2) else "head"
    raise ModelError(
        f"layer {layer}, {owner} {head}: the {_NAMES[what]} of token {token} is not a number or beyond {LARGEST:g}, so "
        "attention is not defined there and nothing can be decided by it. Accepted: finite activations.\n"
        "  Write: dtype: float32 under model (some models overflow in float16), and check that the model's own logits are finite"
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _first_unfit(query, keys, values, out, first, past, begin):
    """Which of `_NAMES`, head and token; -1 where all are fit. Padding is not looked at."""
    for row in range(query.shape[0]):
        for head in range(query.shape[1]):
            for t in range(max(first[row] - past, 0), query.shape[2]):
                if _any_unfit(query[row, head, t]):
                    return 0, head, past + t
        for head in range(keys.shape[1]):
            for t in range(max(first[row], begin), past + query.shape[2]):
                if _any_unfit(keys[row, head, t]):
                    return 1, head, t
                if _any_unfit(values[row, head, t]):
                    return 2, head, t
        for t in range(max(first[row] - past, 0), out.shape[1]):
            for head in range(out.shape[2]):
                if _any_unfit(out[row, t, head]):
                    return 3, head, past + t
    return -1, -1, -1


@njit(cache=True, nogil=True, error_model="numpy")
def _any_unfit(vector):
    """Counted without a branch; "not <=" counts what is not a number."""
    count = 0
    for i in range(vector.size):
        count += not (abs(number(vector[i])) <= np.float32(LARGEST))
    return count > 0
