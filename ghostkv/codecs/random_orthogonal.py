"""A random subspace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.codecs.base import Codec


@dataclass
class RandomOrthogonal(Codec):
    """The first rows of a random rotation, 8 bits each: a random subspace, but an exact one."""

    colour = "#aa4499"

    def fit_frame(self, keys: np.ndarray, queries: np.ndarray) -> None:
        width = keys.shape[1]
        rng = np.random.default_rng(self.seed)
        rotation, _ = np.linalg.qr(rng.normal(size=(width, width)))
        self.encoder_ = rotation[: min(self.code_bytes, width)]
        self.decoder_ = self.encoder_.T.copy()
        self.mean_, self.metric_ = np.zeros(width), np.eye(width)
