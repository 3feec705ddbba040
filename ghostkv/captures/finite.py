"""Numbers that attention is defined on: captures hold no others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ghostkv.files.errors import CaptureError

# Larger numbers are refused with infinities: scores of such queries and keys may not fit float32.
LARGEST = 1e15


def refuse_unfit(
    where: str,
    arrays: Mapping[str, np.ndarray | None],
    positions: np.ndarray,
    numbers: Mapping[str, np.ndarray],
) -> None:
    """Refuse what is not a number, infinite or beyond `LARGEST`.

    Parameters
    ----------
    where : str
        Folder and layer, for the message.
    arrays : mapping
        keys, values, queries, outputs of shape [heads, places, width]; a place of the last two is a query.
    positions : ndarray of int, shape [queries]
    numbers : mapping
        `head` and `KV head`: what they are called, ndarray of int, shape [heads].

    Raises
    ------
    CaptureError
        Names head and position.
    """
    for name, array in arrays.items():
        if array is None or not (found := _unfit(array)).any():
            continue
        head, place, entry = (int(index[0]) for index in np.nonzero(found))
        of_kv = name in ("keys", "values")
        owner = "KV head" if of_kv else "head"
        raise CaptureError(
            f"{where}, {owner} {numbers[owner][head]}: the {name} hold {array[head, place, entry]:g} at position "
            f"{place if of_kv else int(positions[place])}. Accepted: finite numbers, keys and values of at most 65504 (float16), "
            f"others of at most {LARGEST:g}.\n  Write: dtype: float32 under model where the model overflows, or layers: [...] under "
            "capture without this layer. Tensors of your own: correct them"
        )


def _unfit(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.float16:  # none beyond; bits are looked at faster than the numbers
        return (array.view(np.uint16) & 0x7C00) == 0x7C00
    return ~(np.abs(array) <= LARGEST)
