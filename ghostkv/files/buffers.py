"""Memory that is asked for once, and memory that is given back."""

from __future__ import annotations

import ctypes
import math

import numpy as np


class Space:
    """Buffers by name that grow when a larger view comes; fresh memory costs as much as filling it."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def of(self, name: str, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        """An array with whatever it last held, valid until the next call with this name, which has the same dtype."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers[name] = np.zeros(size, dtype)
        return self._buffers[name][:size].reshape(shape)


def give_back() -> None:
    """Return freed memory to the system, which glibc would keep between arrays that live: holes that nothing later fits into."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other libraries return it by themselves
        trim(0)
