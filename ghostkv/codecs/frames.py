"""The codecs of the lab: five choices of frame and bits behind one interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ghostkv.codecs.base import Codec
from ghostkv.codecs.quantiser import UniformQuantiser, allocate_bits

# Ridge on the query second moment, relative to its mean eigenvalue: keeps the metric invertible when
# calibration queries do not span the space, at no cost to soundness.
_RIDGE = 1e-3


@dataclass
class Gaussian(Codec):
    """Gaussian random projection, the historical sketch, with a measured residual.

    ``y = P k`` with ``P ~ N(0, 1/m)``, 8 bits a coordinate; the estimate is ``(P q).(P k)`` (Johnson and
    Lindenstrauss 1984), so ``E = P`` and ``D = P^T``. Data-oblivious: calibration sets only the quantiser's
    range.
    """

    name: ClassVar[str] = "gaussian"

    def fit_frame(self, keys: np.ndarray, queries: np.ndarray) -> None:
        width = keys.shape[1]
        dims = min(self.code_bytes, width)
        rng = np.random.default_rng(self.seed)
        self.encoder_ = rng.normal(0.0, dims**-0.5, (dims, width))
        self.decoder_ = self.encoder_.T.copy()
        self.mean_, self.metric_ = np.zeros(width), np.eye(width)


@dataclass
class RandomOrthogonal(Codec):
    """The first rows of a random rotation, 8 bits each: a random subspace, but an exact one."""

    name: ClassVar[str] = "random_orthogonal"

    def fit_frame(self, keys: np.ndarray, queries: np.ndarray) -> None:
        width = keys.shape[1]
        rng = np.random.default_rng(self.seed)
        rotation, _ = np.linalg.qr(rng.normal(size=(width, width)))
        self.encoder_ = rotation[: min(self.code_bytes, width)]
        self.decoder_ = self.encoder_.T.copy()
        self.mean_, self.metric_ = np.zeros(width), np.eye(width)


@dataclass
class PCA(Codec):
    """Principal components of the centred keys, 8 bits each (as Loki uses them: Singhania et al. 2024)."""

    name: ClassVar[str] = "pca"

    def fit_frame(self, keys: np.ndarray, queries: np.ndarray) -> None:
        self.mean_ = keys.mean(axis=0)
        _, basis = _eigen(np.cov(keys.T, bias=True))
        self.encoder_, self.decoder_ = basis.T.copy(), basis
        self.metric_ = np.eye(keys.shape[1])


@dataclass
class Whitened(Codec):
    """Query-aware principal components: the directions in which keys change *scores* most, 8 bits each.

    With ``A = E[q q^T]^(1/2)`` and ``A cov(k) A = B diag(lam) B^T``, coordinates ``y = B^T A (k - mu)`` have
    ``E[(q.k - q.k_hat)^2] = ||y - y_hat||^2``: least squared score error is least squared coordinate error.
    """

    name: ClassVar[str] = "whitened"

    def fit_frame(self, keys: np.ndarray, queries: np.ndarray) -> None:
        self.mean_ = keys.mean(axis=0)
        root, inverse = _matrix_root(queries.T @ queries / len(queries))
        _, basis = _eigen(root @ np.cov(keys.T, bias=True) @ root)
        self.encoder_ = basis.T @ root
        self.decoder_ = inverse @ basis
        self.metric_ = self.encoder_.copy()


@dataclass
class TransformCode(Whitened):
    """The query-aware frame with bits spent where they remove most score error (transform coding, Goyal
    2001).

    Bits follow reverse water-filling on distortion measured over calibration keys, at most 8 a coordinate;
    most coordinates get none and are dropped.
    """

    name: ClassVar[str] = "transform_code"

    def fit_quantiser(self, coordinates: np.ndarray) -> UniformQuantiser:
        return UniformQuantiser.fit(coordinates, allocate_bits(coordinates, 8 * self.code_bytes))


def _eigen(symmetric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (descending) and eigenvectors, signs fixed so that the same input gives the same basis."""
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])


def _matrix_root(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric square root of a second moment and its inverse, after a small ridge."""
    values, vectors = _eigen(moment)
    floor = _RIDGE * max(values.mean(), np.finfo(float).tiny)
    values = np.sqrt(np.maximum(values, 0.0) + floor)
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T
