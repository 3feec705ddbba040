"""What a fitted codec must do to Gaussian keys: the joint law of score and estimate, quantiser included.

With ``k ~ N(m, K)`` a codec's coordinates ``y = E (k - mu)`` are normal, and a quantised coordinate keeps a multiple of
its covariance with everything: ``Cov(x, Q(y_i)) = Cov(x, y_i) E[y_i Q(y_i)] / Var(y_i)`` for jointly normal x
(Bussgang 1952). Error and correlation of estimates follow from sums over the levels of each coordinate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from ghostkv.codecs import Codec
from ghostkv.codecs.quantiser import UniformQuantiser

_PEAK = 1.0 / np.sqrt(2.0 * np.pi)


@dataclass(frozen=True)
class EstimateLaw:
    """Moments over keys of score and estimate, in units of ``q.k``; arrays of shape [..., queries]."""

    score: np.ndarray  # variance
    estimate: np.ndarray  # variance
    joint: np.ndarray  # covariance of the two
    bias: np.ndarray  # mean score less mean estimate

    @property
    def correlation(self) -> np.ndarray:
        """Of score and estimate over keys."""
        return self.joint / np.sqrt(np.maximum(self.score * self.estimate, 1e-30))

    @property
    def squared_error(self) -> np.ndarray:
        """Expected squared difference."""
        return self.score - 2.0 * self.joint + self.estimate + self.bias**2


def estimate_law(codec: Codec, mean: np.ndarray, covariance: np.ndarray, queries: np.ndarray) -> EstimateLaw:
    """The joint law of score and estimate of normal keys, given the codec and the queries [..., queries, head_dim].

    Exact but for the covariance of two quantised coordinates, which is taken to first order in theirs; frames
    decorrelate them. The codec is fitted, with one uniform quantiser a coordinate; `mean` [head_dim] and `covariance`
    [head_dim, head_dim] are the keys'.
    """
    encoder, quantiser = codec.encoder_, codec.quantiser_
    queries = np.asarray(queries, np.float64)
    spread = encoder @ covariance @ encoder.T
    variance = np.maximum(np.diag(spread), 1e-30)
    level, kept, power = quantised_moments(quantiser, encoder @ (mean - codec.mean_), np.sqrt(variance))
    gain = kept / variance
    after = spread * gain[:, None] * gain
    np.fill_diagonal(after, power)
    z = queries @ codec.decoder_
    return EstimateLaw(
        score=np.einsum("...i,ij,...j", queries, covariance, queries),
        estimate=np.einsum("...i,ij,...j", z, after, z),
        joint=np.einsum("...i,...i", z, (queries @ covariance @ encoder.T) * gain),
        bias=queries @ (mean - codec.mean_) - z @ level,
    )


def quantised_moments(
    quantiser: UniformQuantiser, location: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``E[Q(y)]``, ``Cov(y, Q(y))`` and ``Var(Q(y))`` of normal coordinates, each of shape [dims], given mean and
    standard deviation of each coordinate.
    """
    moments = np.zeros((3, len(location)))
    for i, (bits, step, centre) in enumerate(
        zip(quantiser.bits, quantiser.step, quantiser.centre, strict=True)
    ):
        count = 1 << int(bits)
        levels = centre + (np.arange(count) - (count - 1) / 2.0) * step
        borders = np.concatenate([[-np.inf], (levels[:-1] + levels[1:]) / 2.0, [np.inf]])
        x = (borders - location[i]) / spread[i]
        share, density = np.diff(ndtr(x)), _PEAK * np.exp(-np.minimum(x**2, 1e4) / 2.0)
        mean = share @ levels
        # E[(y - a); y in cell] = spread (phi(low) - phi(high)).
        moments[:, i] = mean, spread[i] * (-np.diff(density)) @ levels, share @ (levels - mean) ** 2
    return moments[0], moments[1], moments[2]
