"""Output errors of all thresholds at once equal those of one threshold after another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.elimination.attention import cold_range
from ghostkv.elimination.compensation import cold_means, compensate
from ghostkv.elimination.grid import Grid
from ghostkv.stages.calibrated.compensated_sweep import output_errors, tail

GROUP, KEYS, WIDTH, PAGE = 2, 70, 5, 16
GRID = Grid.of(np.linspace(-2, 2, 17))


def view(seed, positions=(66, 30, 69), sinks=3, hot=8):
    """Exact attention of a few queries, and estimates of it."""
    rng = np.random.default_rng(seed)
    visible = cold_range(np.array(positions), np.zeros(len(positions), int), sinks, hot)
    scores = rng.normal(size=(GROUP, len(positions), KEYS)).astype(np.float32) * 2
    for q, last in enumerate(visible.last):
        scores[:, q, last:] = -np.inf
    values = rng.normal(size=(KEYS, WIDTH)).astype(np.float32) + 1
    lse = np.log(np.exp(scores.astype(np.float64)).sum(-1)).astype(np.float32)
    mass = np.exp(scores - lse[..., None])
    estimates = (
        np.where(np.isfinite(scores), scores, 0) + rng.normal(size=scores.shape).astype(np.float32) * 0.3
    )
    statistic = rng.normal(size=scores.shape).astype(np.float32)
    return visible, scores, mass, lse, values, estimates.astype(np.float32), statistic, mass @ values


def by_hand(scores, estimates, values, means, output, cold, statistic, theta, q, kind):
    """One head, one query, one threshold, in float64."""
    keys = np.arange(KEYS)
    eliminated = np.zeros(KEYS, bool)
    eliminated[cold] = statistic[cold] < theta
    seen = np.exp(scores.astype(np.float64))
    seen[eliminated] = 0
    instead = np.exp(estimates.astype(np.float64)) * eliminated
    page = 0 if kind == "none" else keys // PAGE if kind == "pages" else np.zeros(KEYS, int)
    if kind == "none":
        instead[:] = 0
        page = np.zeros(KEYS, int)
    mass = np.array([instead[page == i].sum() for i in range(means.shape[1])])
    found = compensate(seen @ values, seen.sum(), mass, means[q])
    return np.linalg.norm(found - output) / np.linalg.norm(output)


@pytest.mark.parametrize("seed", range(3))
def test_every_threshold_equals_attention_computed_again(seed):
    visible, scores, mass, lse, values, estimates, statistic, outputs = view(seed)
    found = output_errors(
        statistic, mass, tail(estimates, lse, values, visible, PAGE), visible, GRID, values, outputs
    )
    whole, paged = cold_means(values, visible), cold_means(values, visible, PAGE)
    for kind, means in (("none", whole), ("mean", whole), ("pages", paged)):
        curve = getattr(found, kind)
        for g in range(GROUP):
            for q in range(len(visible.start)):
                cold = slice(visible.start[q], visible.stop[q])
                expected = [
                    by_hand(
                        scores[g, q], estimates[g, q], values, means, outputs[g, q], cold,
                        statistic[g, q], theta, q, kind,
                    )
                    for theta in GRID.theta
                ]  # fmt: skip
                assert curve[g, q] == pytest.approx(expected, rel=2e-4, abs=2e-5), (kind, g, q)


def test_exact_estimates_and_equal_values_lose_nothing():
    visible, scores, mass, lse, values, _, statistic, _ = view(5)
    values[:] = values[0]
    exact = np.where(np.isfinite(scores), scores, 0).astype(np.float32)
    found = output_errors(
        statistic, mass, tail(exact, lse, values, visible), visible, GRID, values, mass @ values
    )
    assert found.mean.max() < 1e-5
    assert found.pages is None


def test_nothing_eliminated_is_no_error_and_no_cold_key_is_no_nan():
    visible, _, mass, lse, values, estimates, statistic, outputs = view(7, positions=(66, 9, 69))
    statistic[:, 0] = np.inf
    found = output_errors(
        statistic, mass, tail(estimates, lse, values, visible, PAGE), visible, GRID, values, outputs
    )
    for curve in (found.none, found.mean, found.pages):
        assert curve[:, :2].max() < 1e-6
        assert np.isfinite(curve).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shift=st.sampled_from([-1e4, -90.0, 0.0, 90.0, 1e4]))
def test_garbage_estimates_give_finite_errors(seed, shift):
    visible, _, mass, lse, values, estimates, statistic, outputs = view(seed)
    found = output_errors(
        statistic, mass, tail(estimates + np.float32(shift), lse, values, visible, PAGE), visible, GRID,
        values, outputs,
    )  # fmt: skip
    for curve in (found.none, found.mean, found.pages):
        assert np.isfinite(curve).all()
        assert (curve >= 0).all()
