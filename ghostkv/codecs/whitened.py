"""Principal components of what queries see of the keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghostkv.codecs.base import Codec, eigen

# Ridge on the query second moment, relative to its mean eigenvalue: keeps the metric invertible when
# calibration queries do not span the space, at no cost to soundness.
_RIDGE = 1e-3
# Queries of less mean square than float32 can square say nothing of directions: all count alike.
NO_POWER = float(np.finfo(np.float32).tiny)


@dataclass
class Whitened(Codec):
    """Query-aware principal components: the directions in which keys change *scores* most, 8 bits each.

    With ``A = E[q q^T]^(1/2)`` and ``A cov(k) A = B diag(lam) B^T``, coordinates ``y = B^T A (k - mu)`` have
    ``E[(q.k - q.k_hat)^2] = ||y - y_hat||^2``: least squared score error is least squared coordinate error.
    """

    colour = "#009e73"

    def fit_frame(self, keys: np.ndarray, queries: np.ndarray) -> None:
        self.mean_ = keys.mean(axis=0)
        root, inverse = _matrix_root(queries.T @ queries / len(queries))
        _, basis = eigen(root @ np.cov(keys.T, bias=True) @ root)
        self.encoder_ = basis.T @ root
        self.decoder_ = inverse @ basis
        self.metric_ = self.encoder_.copy()


def _matrix_root(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric square root of a second moment and its inverse, after a small ridge."""
    values, vectors = eigen(moment)
    if values.mean() < NO_POWER:
        return np.eye(len(moment)), np.eye(len(moment))
    floor = _RIDGE * values.mean()
    values = np.sqrt(np.maximum(values, 0.0) + floor)
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T
