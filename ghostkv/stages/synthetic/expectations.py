"""What must come out of generated tensors: closed forms for sketch errors, ranks, elimination and softmax mass.

Notation: keys ``k ~ N(m, K)``, scores ``s = q.k / sqrt(d)``, estimates ``s_hat``; ``n`` keys, of which the best `top` are
wanted. docs/synthetic.md states and derives each formula.
"""

from __future__ import annotations

import numpy as np
from scipy.special import bdtr, betaincinv, ndtr, ndtri, roots_hermitenorm, roots_jacobi, stdtr

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def gaussian_sketch_error(dims: int, keys: np.ndarray, queries: np.ndarray) -> float:
    """Expected squared score error of a Gaussian projection, over the expected squared score.

    ``E[((Pq).(Pk) - q.k)^2] = (|q|^2 |k|^2 + (q.k)^2) / m`` for ``P ~ N(0, 1/m)`` of `dims` rows; with the second
    moments ``K = E[k k^T]`` and ``Q = E[q q^T]`` that is ``(tr K tr Q + tr KQ) / m``, and ``(d + 1) / m`` for
    isotropic ones.
    """
    return float((np.trace(keys) * np.trace(queries) / np.sum(keys * queries) + 1.0) / dims)


def random_subspace_error(dims: int, keys: np.ndarray, queries: np.ndarray) -> float:
    """The same for a projection onto a uniformly random subspace; ``1 - m / d`` for isotropic tensors.

    The projection onto the complement, of rank ``r = d - m``, has ``E[R_ij R_kl] = a d_ij d_kl + b (d_ik d_jl + d_il
    d_jk)``; its trace squared, ``r^2``, and its Frobenius norm squared, ``r``, give a and b.
    """
    width = len(keys)
    rank = width - dims
    system = np.array([[width**2, 2.0 * width], [width, width**2 + width]])
    a, b = np.linalg.solve(system, [rank**2, rank])
    # (q.Rk)^2 = sum q_i k_j q_k k_l R_ij R_kl: the pairings give (q.k)^2, |q|^2 |k|^2 and (q.k)^2.
    return float(a + b * (1.0 + np.trace(keys) * np.trace(queries) / np.sum(keys * queries)))


def bivariate_upper(h: np.ndarray, k: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """``P(X > h, Y > k)`` of standard normal X and Y (Plackett 1954), arguments broadcast."""
    h, k, angle = np.broadcast_arrays(h, k, np.arcsin(np.clip(correlation, -1.0, 1.0)))
    t = angle[..., None] * (_NODES + 1.0) / 2.0
    cosine = np.maximum(np.cos(t) ** 2, 1e-30)
    h, k = h[..., None], k[..., None]
    # (h - k)^2 keeps precision where h and k are close and the correlation is near one.
    exponent = -((h - k) ** 2 + 2.0 * h * k * (1.0 - np.sin(t))) / (2.0 * cosine)
    integral = (np.exp(np.minimum(exponent, 0.0)) * _WEIGHTS).sum(axis=-1) * angle / (4.0 * np.pi)
    return ndtr(-h[..., 0]) * ndtr(-k[..., 0]) + integral


def expected_overlap(correlation: np.ndarray, keys: int, top: int) -> np.ndarray:
    """Expected share of the exact top keys among as many best estimates, for normal pairs of this correlation, which
    is not negative.

    A key is in both lists if it exceeds the `top`-th largest of the others in both. Those two thresholds are Beta
    quantiles exactly; their dependence is taken to first order, as a normal copula with the correlation of the two
    counts.
    """
    if top >= keys:
        return np.ones_like(np.asarray(correlation, float))
    rho = np.clip(np.asarray(correlation, float), 0.0, 1.0)
    share, cut = top / keys, -ndtri(top / keys)
    link = (bivariate_upper(cut, cut, rho) - share**2) / (share * (1.0 - share))
    nodes, weights = roots_hermitenorm(16)
    weights = weights / weights.sum()
    first = nodes[:, None] + 0.0 * nodes
    second = link[..., None, None] * first + np.sqrt(np.maximum(1.0 - link**2, 0.0))[..., None, None] * nodes
    # Beyond seven deviations there is no weight, and float64 would round the probability to one.
    h, k = (-ndtri(betaincinv(top, keys - top, ndtr(np.clip(z, -7.0, 7.0)))) for z in (first, second))
    both = bivariate_upper(h, k, rho[..., None, None])
    found = (both * weights[:, None] * weights).sum(axis=(-2, -1)) * keys / top
    return np.where(rho == 1.0, 1.0, np.clip(found, 0.0, 1.0))


def expected_spearman(correlation: np.ndarray, keys: int) -> np.ndarray:
    """Expected Spearman correlation of `keys` normal pairs (Moran 1948)."""
    rho = np.clip(np.asarray(correlation, float), -1.0, 1.0)
    return 6.0 / (np.pi * (keys + 1)) * (np.arcsin(rho) + (keys - 2) * np.arcsin(rho / 2.0))


class RankCurves:
    """`expected_overlap` and `expected_spearman` as smooth functions of the correlation, computed once.

    Parameters
    ----------
    tops : sequence of int
    """

    def __init__(self, keys: int, tops):
        # Near a correlation of one, overlap falls with the angle, not with the correlation.
        self._angle = np.linspace(0.0, np.pi / 2.0, 129)
        cosine = np.cos(self._angle)
        self.keys, self._curves = keys, {}
        for top in tops:
            self._curves[top] = expected_overlap(cosine, keys, top)

    def overlap(self, correlation: np.ndarray, top: int) -> np.ndarray:
        """Expected top-`top` overlap; negative correlations count as none."""
        return np.interp(np.arccos(np.clip(correlation, 0.0, 1.0)), self._angle, self._curves[top])

    def measure(self, name: str, top: int | None, correlation: np.ndarray) -> np.ndarray:
        """`overlap` or `spearman` by name."""
        return (
            self.overlap(correlation, top) if name == "overlap" else expected_spearman(correlation, self.keys)
        )


def squared_correlation_law(codec: str, dims: int, width: int) -> tuple[float, float] | None:
    """The Beta law of the squared correlation of score and estimate, for isotropic Gaussian keys.

    Given a query and a projection, the pairs ``(q.k, Pq.Pk)`` of all keys are bivariate normal. Their squared
    correlation is ``|u|^2 / (|u|^2 + chi^2_{d-1} / m)``, ``u = Pq/|q|``: Beta(m/2, (d-1)/2) for a Gaussian projection,
    and Beta(m/2, (d-m)/2) for one onto a random subspace.
    """
    if dims >= width and codec != "gaussian":
        return None
    if codec == "gaussian":
        return dims / 2.0, (width - 1) / 2.0
    return (dims / 2.0, (width - dims) / 2.0) if codec in ("random_orthogonal", "pca") else None


def mean_over_beta(law: tuple[float, float], curve) -> float:
    """``E[curve(sqrt(B))]`` of a Beta law, by Gauss-Jacobi quadrature."""
    nodes, weights = roots_jacobi(40, law[1] - 1.0, law[0] - 1.0)
    return float((curve(np.sqrt((nodes + 1.0) / 2.0)) * weights).sum() / weights.sum())


def share_below(
    theta: np.ndarray, location: np.ndarray, spread: np.ndarray, dof: float | None = None
) -> np.ndarray:
    """Expected share of scores below theta: normal, or Student t of unit-variance scaling with `dof`; `spread` is the
    standard deviation.
    """
    x = (theta - location) / spread
    return ndtr(x) if dof is None else stdtr(dof, x * np.sqrt(dof / (dof - 2.0)))


def expected_fer(below: np.ndarray, keys: int, top: int, cold: np.ndarray) -> np.ndarray:
    """Expected share of the exact top keys that lie below theta and are cold, for independent scores.

    ``E[(top - N)^+] / top`` with ``N ~ Binomial(keys, 1 - below)`` keys above theta, times the share of the keys that
    are `cold`, which by symmetry is that of the top keys.
    """
    above = 1.0 - np.asarray(below, float)
    counts = np.arange(top)
    # E[(top - N)^+] = sum_{j < top} P(N <= j).
    return bdtr(counts, keys, above[..., None]).sum(axis=-1) / top * cold


def expected_mass_below(theta: np.ndarray, spread: np.ndarray, keys: int) -> np.ndarray:
    """Expected softmax mass below theta of independent centred normal scores, to second order in 1 / keys.

    To first order ``Phi(theta / s - s)``: weighting a normal law by its exponential moves its mean by the variance.
    The correction is that of a ratio, ``-Cov(A, Z) / EZ^2 + EA Var Z / EZ^3``.
    """
    first, twice = ndtr(theta / spread - spread), ndtr(theta / spread - 2.0 * spread)
    growth = np.exp(spread**2)
    return first + (growth * first - growth * twice) / keys


def elimination_at_mass(mass: float, spread: np.ndarray) -> np.ndarray:
    """Share of independent normal scores that may go if they may hold `mass` of the softmax: ``Phi(z_mass + s)``."""
    return ndtr(ndtri(mass) + spread)


def needle_mass(score: np.ndarray, spread: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Expected softmax mass of a key of this score among `keys` centred normal ones, to second order.

    ``f(Z) = 1 / (1 + Z e^-S)`` at ``E[Z] = n e^{s^2/2}``, with the curvature term ``f'' Var(Z) / 2``.
    """
    log_odds = np.log(keys) + spread**2 / 2.0 - score
    mass = np.exp(-np.logaddexp(0.0, log_odds))
    return mass + mass * (1.0 - mass) ** 2 * (np.exp(spread**2) - 1.0) / keys


def elimination_at_fer(correlation: np.ndarray, keys: int, top: int, fer: float, cold: float = 1.0) -> float:
    """Share of cold keys that one threshold on normal estimates eliminates at this FER, over queries of these
    correlations; the limit of many keys.

    The threshold ``t`` solves ``P(s_hat < t | s is in the top) * cold = fer``; estimates below it are eliminated.
    """
    # Queries differ little: the middles of eight classes of equal size stand for all.
    rho = np.quantile(correlation, (np.arange(8) + 0.5) / 8)
    share, cut = top / keys, -ndtri(top / keys)
    if fer >= cold:
        return 1.0
    low, high = -8.0, 8.0
    for _ in range(22):
        middle = (low + high) / 2.0
        lost = 1.0 - np.mean(bivariate_upper(cut, middle, rho)) / share
        low, high = (middle, high) if lost * cold < fer else (low, middle)
    return float(ndtr((low + high) / 2.0))
