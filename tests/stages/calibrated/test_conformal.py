"""Conformal promises hold on exchangeable data; group decisions keep what any head keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.stages.calibrated.conformal import (
    Goal,
    calibrate,
    dependence,
    floor,
    goals,
    group_statistic,
    plug_in,
    shifts,
)


def risk_curves(rng, queries, heads=1, thetas=40):
    """Per-query losses that grow with theta, heavy-tailed as false eliminations are; [heads, queries, thetas]."""
    start = rng.integers(0, 2 * thetas, (heads, queries, 1))
    height = rng.beta(0.4, 2.0, (heads, queries, 1))
    return height * (np.arange(thetas) >= start)


@pytest.mark.parametrize("target", [0.02, 0.05, 0.07])
def test_the_expected_risk_of_a_new_query_is_at_most_the_target(target):
    rng = np.random.default_rng(0)
    runs, new = 800, []
    for _ in range(runs):
        found = calibrate([risk_curves(rng, 30), risk_curves(rng, 30)], Goal("fer", target))
        fresh = risk_curves(rng, 8)[0]
        new.append(fresh[:, found.index[0]].mean() if found.index[0] >= 0 else 0.0)
    # Three standard errors above the target would be a broken promise.
    assert np.mean(new) <= target + 3 * np.std(new) / np.sqrt(runs)
    # And it is a calibration, not mere caution.
    assert np.mean(new) >= target - 2.5 * floor(60)


def test_below_the_floor_nothing_is_eliminated_and_nothing_promised():
    risks = [np.zeros((2, 50, 10))]
    assert floor(50) == pytest.approx(1 / 51)
    below = calibrate(risks, Goal("fer", 0.019))
    above = calibrate(risks, Goal("fer", 0.02))
    assert not below.guaranteed_if_exchangeable
    assert (below.index == -1).all()
    assert above.guaranteed_if_exchangeable
    assert (above.index == 9).all()
    assert (plug_in(risks, Goal("fer", 0.019)).index == 9).all()
    assert not plug_in(risks, Goal("fer", 0.5)).guaranteed_if_exchangeable


def test_output_error_is_cut_at_one_stops_at_its_first_excess_and_promises_nothing():
    risk = np.tile(np.array([0.01, 0.02, 0.5, 0.03, 40.0]), (1, 200, 1))
    found = calibrate([risk], Goal("output_error", 0.05, "mean"))
    assert found.index.tolist() == [1]
    assert not found.guaranteed_if_exchangeable
    assert calibrate([risk], Goal("output_error", 0.999, "mean")).index.tolist() == [3]


def test_a_shared_threshold_is_the_strictest_heads():
    rng = np.random.default_rng(1)
    risks = [risk_curves(rng, 300, heads=3) * np.array([0.2, 1.0, 0.5])[:, None, None]]
    each, shared = (calibrate(risks, Goal("dropped_mass", 0.05), shared) for shared in (False, True))
    assert len(set(each.index)) > 1
    assert (shared.index == each.index.min()).all()
    assert shared.guaranteed_if_exchangeable


def test_goals_name_their_risk_and_repeat_only_output_errors():
    found = goals({"fer": [0.01, 0.05], "output_error": [0.05]}, ("none", "mean"))
    assert [goal.risk for goal in found] == ["fer", "fer", "output_error_none", "output_error_mean"]
    assert goals({"output_error": [0.05]}) == []


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    theta=st.floats(-2, 2, width=32),
    offsets=st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3),
)
def test_a_group_decision_never_eliminates_what_a_head_keeps(seed, theta, offsets):
    rng = np.random.default_rng(seed)
    statistic = rng.normal(size=(3, 4, 30)).astype(np.float32)
    statistic[rng.random(statistic.shape) < 0.05] = np.inf
    start, stop = np.array([2, 0, 5, 9]), np.array([30, 10, 5, 4])
    offset = np.array(offsets, np.float32)
    out = np.full_like(statistic, np.nan)
    group_statistic(statistic, offset, start, stop, out)
    for q in range(4):
        cold = slice(start[q], max(start[q], stop[q]))
        eliminated = out[:, q, cold] < np.float32(theta)
        kept = statistic[:, q, cold] - offset[:, None] >= np.float32(theta)
        assert not (eliminated & kept.any(axis=0)).any()
        assert (eliminated | kept.any(axis=0)).all()
    outside = np.isnan(out)
    assert outside[:, 0, :2].all()
    assert outside[:, 2].all()


def test_shift_zero_is_the_union_of_the_heads_own_survivors():
    rng = np.random.default_rng(3)
    statistic = rng.normal(size=(3, 2, 500)).astype(np.float32)
    theta = np.array([-0.3, 0.1, 0.2], np.float32)
    out = np.empty_like(statistic)
    group_statistic(statistic, theta, np.zeros(2, int), np.full(2, 500), out)
    assert np.array_equal(out[0] >= 0, (statistic >= theta[:, None, None]).any(axis=0))
    assert 0.0 in shifts(0.02, 50)
    assert len(shifts(0.02, 50)) == 101


def test_dependence_finds_independent_queries_and_texts_that_decide_all():
    rng = np.random.default_rng(4)
    sizes = np.full(3, 96)
    alone = rng.normal(size=(200, 3, 96))
    found = dependence(alone.mean(axis=2), alone.var(axis=2, ddof=1), sizes)
    assert found.correlation < 0.003
    assert found.effective > 288 / 1.3
    same = np.repeat(rng.normal(size=(200, 3, 1)), 96, axis=2)
    found = dependence(same.mean(axis=2), same.var(axis=2, ddof=1), sizes)
    assert found.correlation == pytest.approx(1)
    assert found.effective == pytest.approx(3)
    mixed = rng.normal(size=(2000, 3, 1)) * 0.5 + rng.normal(size=(2000, 3, 96))
    found = dependence(mixed.mean(axis=2), mixed.var(axis=2, ddof=1), sizes)
    assert found.correlation == pytest.approx(0.25 / 1.25, rel=0.1)
    assert np.isnan(dependence(np.zeros((5, 1)), np.zeros((5, 1)), np.array([96])).effective)


def test_dependence_weighs_texts_by_their_queries():
    rng = np.random.default_rng(6)
    sizes = np.array([20, 40, 160])
    shift = rng.normal(size=(20_000, 3)) * 0.5
    means = shift + rng.normal(size=(20_000, 3)) / np.sqrt(sizes)
    variances = rng.chisquare(sizes - 1, size=(20_000, 3)) / (sizes - 1)
    found = dependence(means, variances, sizes)
    assert found.correlation == pytest.approx(0.2, rel=0.03)
    # The variance of the mean over all queries, against that of independent ones.
    whole = (means @ sizes / sizes.sum()).var()
    assert 1.25 / whole == pytest.approx(found.effective, rel=0.05)
