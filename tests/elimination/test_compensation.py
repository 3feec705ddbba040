"""Tail compensation: finite whatever the estimates are, and never further from exact attention than its bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.elimination.compensation import cold_means, compensate, inexactness, output_bound, tail_weights
from tests.elimination.test_certificates import KEYS, Case, make_keys, make_queries

SCORES = st.lists(st.floats(-60, 60, width=32), min_size=4, max_size=12)


def exact_output(scores, values):
    mass = np.exp(scores.astype(np.float64) - scores.max())
    return mass @ values / mass.sum()


def in_log_domain(scores, estimates, kept, values, mean):
    """The definition in float64: the tail's share from a difference of logarithms, which nothing overflows."""
    read = exact_output(scores[kept], values[kept])
    if kept.all():
        return read, 0.0
    lse = [np.logaddexp.reduce(part.astype(np.float64)) for part in (scores[kept], estimates[~kept])]
    share = 1.0 / (1.0 + np.exp(np.minimum(lse[0] - lse[1], 700.0)))
    return (1 - share) * read + share * mean, share


def drawn(scores, seed):
    """Scores, values of very different size, and which keys are read, at least the first."""
    rng = np.random.default_rng(seed)
    scores = np.array(scores, np.float32)
    values = rng.normal(size=(len(scores), 3)) * 10.0 ** rng.uniform(-3, 3, (len(scores), 1))
    kept = rng.random(len(scores)) < 0.5
    kept[0] = True
    return rng, scores, values, kept


@settings(max_examples=300, deadline=None)
@given(
    scores=SCORES, seed=st.integers(0, 2**31), shift=st.sampled_from([-1e9, -200.0, 0.0, 39.0, 200.0, 1e9])
)
def test_weights_give_the_output_of_the_definition_for_any_estimates(scores, seed, shift):
    rng, scores, values, kept = drawn(scores, seed)
    estimates = (scores + rng.normal(size=len(scores)) * 20 + shift).astype(np.float32)
    mean = values[~kept].mean(axis=0) if not kept.all() else np.zeros(3)
    expected, _ = in_log_domain(scores, estimates, kept, values, mean)
    peak = scores[kept].max()
    whole, of_read = (np.logaddexp.reduce(part.astype(np.float64)) for part in (scores, scores[kept]))
    # The whole denominator is a reference only where some of it is left, as the sweeps know.
    for reference in (peak, whole)[: 2 if of_read - whole > np.log(1e-5) else 1]:
        read = np.exp(scores[kept].astype(np.float64) - reference)
        tail = tail_weights(estimates, np.asarray(reference))[~kept].sum(dtype=np.float64)
        found = compensate(read @ values[kept], read.sum(), np.array([tail]), mean[None])
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(values).max())


@settings(max_examples=400, deadline=None)
@given(
    scores=SCORES,
    seed=st.integers(0, 2**31),
    share=st.floats(0, 1),
    spare=st.sampled_from([1.0, 1.5, 10.0]),
)
def test_no_output_is_beyond_its_bound_whatever_the_share(scores, seed, share, spare):
    """Also where the tail's share is no estimate at all, and where more mass is certified than was lost."""
    _, scores, values, kept = drawn(scores, seed)
    read, exact = exact_output(scores[kept], values[kept]), exact_output(scores, values)
    mass = np.exp(scores.astype(np.float64) - scores.max())
    certified = min(spare * mass[~kept].sum() / mass.sum(), 1.0)
    lost = values[~kept] if not kept.all() else np.zeros((1, 3))
    mean, largest = lost.mean(axis=0), np.linalg.norm(lost, axis=1).max()
    bound = output_bound(np.array(certified), np.array(share), np.array(largest), read, mean)
    error = np.linalg.norm(exact - ((1 - share) * read + share * mean))
    assert error <= bound + 1e-9 * np.abs(values).max()
    assert bound <= (certified + share) * (largest + np.linalg.norm(read)) + 1e-9 * np.abs(values).max()


def test_the_bound_is_reached():
    """One eliminated key at the end of the ball, in the direction that hurts most."""
    read, mean, m, t = np.array([1.0, 2.0]), np.array([0.5, -0.5]), 0.2, 0.15
    worst = -((m - t) * read + t * mean)
    lost = 3.0 * worst / np.linalg.norm(worst)
    error = np.linalg.norm((1 - m) * read + m * lost - ((1 - t) * read + t * mean))
    bound = output_bound(np.array(m), np.array(t), np.array(3.0), read, mean)
    assert bound == pytest.approx(error)
    # Nothing was lost after all: what the tail moved is the whole error.
    assert output_bound(np.array(1e-9), np.array(t), np.array(0.0), read, mean) == pytest.approx(
        t * np.linalg.norm(read - mean)
    )


def test_truth_knows_the_largest_cold_value_and_the_mean():
    case = Case(make_keys("gaussian", 1), make_queries("gaussian", 1, 0.2))
    values, cold = case.truth.values.astype(np.float64), case.visible.mask(KEYS)
    norms = np.linalg.norm(values, axis=1)
    np.testing.assert_allclose(case.truth.largest, [norms[one].max(initial=0.0) for one in cold])
    np.testing.assert_allclose(case.truth.means, cold_means(values, case.visible)[:, 0])
    np.testing.assert_allclose(case.truth.means, [values[one].mean(axis=0) for one in cold], atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    width=st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 5.0, 80.0]),
    spread=st.sampled_from([0.1, 3.0, 20.0]),
)
def test_no_scores_within_their_margins_move_the_output_further_than_is_stated(seed, width, spread):
    """The adversary knows the values: scores go up where a value lies in one direction, and down elsewhere."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, 40)) * spread
    margins = rng.random((3, 40)) * width * (rng.random((3, 40)) < 0.7)
    scores[:, 30:], margins[:, 30:] = -np.inf, 100.0
    values = rng.normal(size=(40, 5)).astype(np.float32) + rng.normal() * 3

    def average(scores):
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights @ values / weights.sum(axis=-1, keepdims=True)

    read = average(scores)
    stated = inexactness(scores, margins, values, read)
    worst = np.zeros(3)
    for _ in range(20):
        side = np.sign((values - values[:30].mean(axis=0)) @ rng.normal(size=5))
        for moved in (side, -side, rng.uniform(-1, 1, (3, 40))):
            worst = np.maximum(worst, np.linalg.norm(average(scores + moved * margins) - read, axis=-1))
    assert (worst <= stated * (1 + 1e-9) + 1e-12).all()
    if width <= 0.1 and spread < 1:
        # Not so by stating too much.
        assert (stated <= 40 * worst + 1e-5).all()
