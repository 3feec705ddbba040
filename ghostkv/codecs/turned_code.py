"""Transform coding of turned keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES, Codec
from ghostkv.codecs.quantiser import UniformQuantiser, allocate_bits
from ghostkv.codecs.turned import Turned


@dataclass
class TurnedCode(Turned):
    """The bits of `TransformCode`, for keys turned back to position 0."""

    colour = "#66a61e"
    in_config = True

    def fit_turned(self, coordinates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        quantiser = UniformQuantiser.fit(coordinates, allocate_bits(coordinates, 8 * self.code_bytes))
        written = quantiser.bits > 0
        self.coder_ = quantiser.select(written)
        return written

    def write(self, coordinates: np.ndarray) -> np.ndarray:
        return self.coder_.quantise(coordinates)

    def read(self, codes: np.ndarray) -> np.ndarray:
        return self.coder_.dequantise(codes)

    def _pack(self, codes: np.ndarray) -> np.ndarray:
        return self.coder_.pack(codes, self.code_bytes)

    def _unpack(self, code: np.ndarray) -> np.ndarray:
        return self.coder_.unpack(code)

    @property
    def constant_bytes(self) -> int:
        """Of what estimates read, in fp16: steps and centres, and what `Turned` reads."""
        return super().constant_bytes + ELEMENT_BYTES * 2 * len(self.coder_.bits)

    def arrays(self) -> dict[str, np.ndarray]:
        quantiser = self.coder_
        return super().arrays() | {
            "bits": quantiser.bits,
            "step": quantiser.step,
            "centre": quantiser.centre,
        }

    def load(self, arrays: dict[str, np.ndarray]) -> Codec:
        self.coder_ = UniformQuantiser(arrays["bits"], arrays["step"], arrays["centre"])
        return super().load(arrays)
