"""Gaussian random projection: the historical sketch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.codecs.base import Codec


@dataclass
class Gaussian(Codec):
    """Gaussian random projection, the historical sketch, with a measured residual.

    ``y = P k`` with ``P ~ N(0, 1/m)``, 8 bits a coordinate; the estimate is ``(P q).(P k)`` (Johnson and
    Lindenstrauss 1984), so ``E = P`` and ``D = P^T``. Data-oblivious: calibration sets only the quantiser's range.
    """

    colour = "#d55e00"

    def fit_frame(self, keys: np.ndarray, queries: np.ndarray) -> None:
        width = keys.shape[1]
        dims = min(self.code_bytes, width)
        rng = np.random.default_rng(self.seed)
        self.encoder_ = rng.normal(0.0, dims**-0.5, (dims, width))
        self.decoder_ = self.encoder_.T.copy()
        self.mean_, self.metric_ = np.zeros(width), np.eye(width)
