"""Closed forms against brute force: simulations that know nothing of the formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from ghostkv.codecs import by_name
from ghostkv.codecs.quantiser import UniformQuantiser
from ghostkv.stages.synthetic import expectations as expect
from ghostkv.stages.synthetic.codec_expectations import estimate_law, quantised_moments

RNG = np.random.default_rng(7)


def sigma(samples, expected):
    """Deviation of a mean from its expectation, in standard errors."""
    samples = np.asarray(samples, float)
    return abs(samples.mean() - expected) / (samples.std(ddof=1) / np.sqrt(len(samples)))


def moments(width=12, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, width, width))
    return a @ a.T, b @ b.T, a, b


@pytest.mark.parametrize("dims", [1, 4, 12, 30])
def test_the_error_of_a_gaussian_projection(dims):
    keys, queries, a, b = moments()
    projections = RNG.normal(size=(4000, dims, 12)) / np.sqrt(dims)
    k, q = RNG.normal(size=(4000, 12)) @ a.T, RNG.normal(size=(4000, 12)) @ b.T
    error = np.einsum("nmi,ni,nmj,nj->n", projections, q, projections, k) - np.einsum("ni,ni->n", q, k)
    expected = expect.gaussian_sketch_error(dims, keys, queries) * np.sum(keys * queries)
    assert sigma(error**2, expected) < 4


def test_of_isotropic_tensors_it_is_d_plus_one_over_m():
    assert expect.gaussian_sketch_error(8, np.eye(64), 3 * np.eye(64)) == pytest.approx(65 / 8)
    assert expect.random_subspace_error(16, np.eye(64), 3 * np.eye(64)) == pytest.approx(1 - 16 / 64)


@pytest.mark.parametrize("dims", [1, 5, 11])
def test_the_error_of_a_random_subspace(dims):
    keys, queries, a, b = moments(seed=3)
    basis = np.linalg.qr(RNG.normal(size=(4000, 12, 12)))[0][:, :, :dims]
    k, q = RNG.normal(size=(4000, 12)) @ a.T, RNG.normal(size=(4000, 12)) @ b.T
    estimate = np.einsum("nim,ni,njm,nj->n", basis, q, basis, k)
    expected = expect.random_subspace_error(dims, keys, queries) * np.sum(keys * queries)
    assert sigma((estimate - np.einsum("ni,ni->n", q, k)) ** 2, expected) < 4


@given(st.floats(-4, 4), st.floats(-4, 4), st.floats(-0.9999, 0.9999))
def test_the_bivariate_tail_is_scipys(h, k, rho):
    known = multivariate_normal.cdf([-h, -k], cov=[[1, rho], [rho, 1]], allow_singular=True)
    assert expect.bivariate_upper(h, k, rho) == pytest.approx(known, abs=2e-5)


@pytest.mark.parametrize(("rho", "top"), [(0.3, 8), (0.3, 64), (0.7, 1), (0.9, 8), (0.98, 32)])
def test_expected_overlap_is_what_normal_pairs_have(rho, top):
    exact = RNG.normal(size=(1500, 512))
    estimate = rho * exact + np.sqrt(1 - rho**2) * RNG.normal(size=exact.shape)
    both = [np.argpartition(-x, top - 1, axis=1)[:, :top] for x in (exact, estimate)]
    found = [len(np.intersect1d(x, y)) / top for x, y in zip(*both, strict=True)]
    assert sigma(found, expect.expected_overlap(rho, 512, top)) < 4


def test_overlap_ends_where_it_must():
    assert expect.expected_overlap(1.0, 100, 10) == 1
    # Unrelated lists share top / keys of each other.
    assert expect.expected_overlap(0.0, 100, 10) == pytest.approx(0.1, rel=1e-3)
    assert expect.expected_overlap(0.5, 10, 10) == 1


def test_expected_spearman_is_what_normal_pairs_have():
    x = RNG.normal(size=(4000, 20))
    y = 0.6 * x + 0.8 * RNG.normal(size=x.shape)
    ranks = [np.argsort(np.argsort(z, axis=1), axis=1) for z in (x, y)]
    found = [np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]
    assert sigma(found, expect.expected_spearman(0.6, 20)) < 4


@pytest.mark.parametrize(("codec", "dims"), [("gaussian", 6), ("random_orthogonal", 6), ("gaussian", 40)])
def test_squared_correlations_follow_their_beta_law(codec, dims):
    width, found = 16, []
    for _ in range(2000):
        rows = RNG.normal(size=(dims, width))
        projection = rows.T @ rows if codec == "gaussian" else None
        if projection is None:
            basis = np.linalg.qr(rows.T)[0]
            projection = basis @ basis.T
        q = RNG.normal(size=width)
        found.append((q @ projection @ q) ** 2 / (q @ q * (projection @ q) @ (projection @ q)))
    law = expect.squared_correlation_law(codec, dims, width)
    assert sigma(found, expect.mean_over_beta(law, np.square)) < 4
    assert sigma(np.array(found) ** 2, expect.mean_over_beta(law, lambda rho: rho**4)) < 4


def test_fer_of_a_threshold_is_what_independent_scores_have():
    scores, theta, top = RNG.normal(size=(20_000, 200)), 1.4, 16
    above = (scores >= theta).sum(axis=1)
    found = np.maximum(top - above, 0) / top
    below = expect.share_below(theta, 0.0, 1.0)
    assert sigma(found, expect.expected_fer(below, 200, top, 1.0)) < 4


def test_mass_below_a_threshold_and_mass_of_a_needle():
    spread, keys, score = 1.2, 400, 7.0
    powers = np.exp(spread * RNG.normal(size=(20_000, keys)))
    total = powers.sum(axis=1)
    below = np.where(powers < np.exp(0.8), powers, 0).sum(axis=1) / total
    assert below.mean() == pytest.approx(expect.expected_mass_below(0.8, spread, keys), abs=4e-4)
    first_order = float(expect.share_below(0.8, spread**2, spread))
    assert abs(below.mean() - first_order) > 1e-3  # the correction is needed
    needle = np.exp(score) / (np.exp(score) + total)
    assert needle.mean() == pytest.approx(expect.needle_mass(score, spread, keys), abs=4e-4)


def test_elimination_at_a_mass_is_what_large_samples_have():
    scores = 2.0 * RNG.normal(size=(20, 100_000))
    ordered = np.sort(np.exp(scores), axis=1)
    share = (np.cumsum(ordered, axis=1) <= 0.05 * ordered.sum(axis=1, keepdims=True)).mean(axis=1)
    assert sigma(share, expect.elimination_at_mass(0.05, 2.0)) < 4.5


def test_elimination_at_a_fer_is_what_normal_pairs_have():
    rho, keys, top, fer = 0.8, 20_000, 160, 0.05
    exact = RNG.normal(size=(40, keys))
    estimate = rho * exact + np.sqrt(1 - rho**2) * RNG.normal(size=exact.shape)
    best = np.argpartition(-exact, top - 1, axis=1)[:, :top]
    theta = np.quantile(np.take_along_axis(estimate, best, axis=1), fer, axis=1)
    share = (estimate < theta[:, None]).mean(axis=1)
    assert share.mean() == pytest.approx(expect.elimination_at_fer(np.full(3, rho), keys, top, fer), abs=0.01)
    assert expect.elimination_at_fer(np.full(3, rho), keys, top, 0.05, cold=0.04) == 1.0


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_quantised_moments_are_those_of_samples(bits):
    quantiser = UniformQuantiser(np.array([bits]), np.array([1.3 / bits**2]), np.array([0.2]))
    y = 0.5 + 1.7 * RNG.normal(size=(400_000, 1))
    q = quantiser.dequantise(quantiser.quantise(y)).astype(float)
    mean, joint, power = (x[0] for x in quantised_moments(quantiser, np.array([0.5]), np.array([1.7])))
    assert q.mean() == pytest.approx(mean, abs=0.01)
    assert np.mean((y - 0.5) * q) == pytest.approx(joint, abs=0.02)
    assert q.var() == pytest.approx(power, abs=0.02)


# Those whose coordinates have a uniform quantiser each.
@pytest.mark.parametrize("name", sorted(set(by_name.names()) - {"turned_code", "vector_code"}))
def test_the_law_of_estimates_is_that_of_a_fitted_codec(name):
    width = 8
    keys, _, a, b = moments(width, seed=5)
    mean = np.linspace(-1, 1, width)
    queries = RNG.normal(size=(40, width)) @ b.T
    codec = by_name.make(name, 4, 1).fit(mean + RNG.normal(size=(4000, width)) @ a.T, queries)
    fresh = mean + RNG.normal(size=(200_000, width)) @ a.T
    estimates = codec.estimate(codec.project(queries), codec.decode(codec.encode(fresh)), 1.0).astype(float)
    exact = queries @ fresh.T
    law = estimate_law(codec, mean, keys, queries)
    error = ((estimates - exact) ** 2).mean(axis=1)
    np.testing.assert_allclose(law.squared_error, error, rtol=0.05, atol=0.02 * error.mean())
    found = [np.corrcoef(x, y)[0, 1] for x, y in zip(exact, estimates, strict=True)]
    np.testing.assert_allclose(law.correlation, found, atol=0.01)
