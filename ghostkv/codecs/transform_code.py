"""Transform coding in the query-aware frame: the lab's own codec."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.codecs.quantiser import UniformQuantiser, allocate_bits
from ghostkv.codecs.whitened import Whitened


@dataclass
class TransformCode(Whitened):
    """The query-aware frame with bits spent where they remove most score error (transform coding, Goyal 2001).

    Bits follow reverse water-filling on distortion measured over calibration keys, at most 8 a coordinate;
    most coordinates get none and are dropped.
    """

    colour = "#0072b2"

    def fit_quantiser(self, coordinates: np.ndarray) -> UniformQuantiser:
        return UniformQuantiser.fit(coordinates, allocate_bits(coordinates, 8 * self.code_bytes))
