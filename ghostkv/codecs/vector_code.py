"""Vector quantisation of turned keys in the query-aware frame: the lab's codec of few bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES, Codec
from ghostkv.codecs.codebooks import Codebooks
from ghostkv.codecs.turned import Turned

# Coordinates of less variance than this share of the water level are not written.
_BELOW = 0.1


@dataclass
class VectorCode(Turned):
    """Residual codebooks of 256 centroids, one byte each, for keys turned back to position 0."""

    colour = "#a6761d"
    in_config = True
    # Centroids lie closer to the keys that they were fitted on than to others.
    headroom: ClassVar[float] = 2.0

    def fit_turned(self, coordinates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        variance = (coordinates**2).mean(axis=0)
        written = variance > _BELOW * water_level(variance, 8 * self.code_bytes)
        # Of keys that are all alike, too, a code says something.
        written[0] = True
        self.coder_ = Codebooks.fit(coordinates[:, written], self.code_bytes, rng)
        return written

    def write(self, coordinates: np.ndarray) -> np.ndarray:
        return self.coder_.encode(coordinates)

    def read(self, codes: np.ndarray) -> np.ndarray:
        return self.coder_.rebuild(codes)

    def _pack(self, codes: np.ndarray) -> np.ndarray:
        return codes

    def _unpack(self, code: np.ndarray) -> np.ndarray:
        return code

    @property
    def constant_bytes(self) -> int:
        """Of what estimates read, in fp16: the codebooks, and what `Turned` reads."""
        return super().constant_bytes + ELEMENT_BYTES * self.coder_.centroids.size

    def arrays(self) -> dict[str, np.ndarray]:
        return super().arrays() | {"centroids": self.coder_.centroids}

    def load(self, arrays: dict[str, np.ndarray]) -> Codec:
        self.coder_ = Codebooks(arrays["centroids"])
        return super().load(arrays)


def water_level(variance: np.ndarray, bits: int) -> float:
    """Distortion that so many bits leave in every coordinate of more variance (Cover and Thomas 2006, section 10.3)."""
    ordered = np.log2(np.maximum(np.sort(variance)[::-1], 1e-300))
    # With the first n coordinates above the level, it takes the bits that bring all of them down to it.
    levels = (np.cumsum(ordered) - 2.0 * bits) / np.arange(1, len(ordered) + 1)
    above = np.append(ordered[1:], -np.inf) <= levels
    return float(2.0 ** levels[int(np.argmax(above))])
