"""K and V of a growing cache as compiled code reads them: the room they lie in, without a copy."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided


def stored(view: np.ndarray) -> np.ndarray:
    """A contiguous array [batch, heads, tokens or more, dim] that begins with what `view` shows of each head.

    Compiled code is made for contiguous arrays. A view of the first tokens of a cache's room is none, and the room is.
    What lies behind the view's tokens is not to be read. A view of any other kind is copied.
    """
    if view.flags.c_contiguous:
        return view
    batch, heads, tokens, dim = view.shape
    line = dim * view.itemsize
    # The step from one head to the next, or from one row of the batch to the next where there is one head.
    step = view.strides[1] if heads > 1 else view.strides[0] if batch > 1 else tokens * line
    room = (batch, heads, step // line if line else tokens, dim)
    steps = (heads * step, step, line, view.itemsize)
    # Along an axis of one entry nothing is stepped.
    alike = all(
        size == 1 or one == other for size, one, other in zip(view.shape, view.strides, steps, strict=True)
    )
    if not alike or room[2] < tokens or (line and step % line):
        return np.ascontiguousarray(view)
    return as_strided(view, room, steps, writeable=False) if room[2] > tokens else view
