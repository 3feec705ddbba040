"""Memory that is asked for once."""

from __future__ import annotations

import numpy as np


class Space:
    """Buffers by name that grow when a larger view comes; fresh memory costs as much as filling it."""

    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}

    def of(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A float32 array of this shape with arbitrary content, valid until the next call with this name."""
        size = int(np.prod(shape))
        if name not in self.buffers or self.buffers[name].size < size:
            self.buffers[name] = np.empty(size, np.float32)
        return self.buffers[name][:size].reshape(shape)


class Buffers:
    """Arrays that all scenes of a layer share, so that memory is asked for once."""

    def __init__(self) -> None:
        self._pool: dict[tuple, np.ndarray] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        """An array of that name and shape with whatever it last held."""
        key = (name, shape, dtype)
        if key not in self._pool:
            self._pool[key] = np.zeros(shape, dtype)
        return self._pool[key]
