"""Principal components of the keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.codecs.base import Codec, eigen


@dataclass
class PCA(Codec):
    """Principal components of the centred keys, 8 bits each (as Loki uses them: Singhania et al. 2024)."""

    colour = "#e69f00"

    def fit_frame(self, keys: np.ndarray, queries: np.ndarray) -> None:
        self.mean_ = keys.mean(axis=0)
        _, basis = eigen(np.cov(keys.T, bias=True))
        self.encoder_, self.decoder_ = basis.T.copy(), basis
        self.metric_ = np.eye(keys.shape[1])
