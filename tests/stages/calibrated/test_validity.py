"""Promises on resampled documents: thresholds keep their share, counting equals looping, tests find what is there and no more."""

import numpy as np
import pytest
from scipy.stats import binom

from ghostkv.stages.calibrated.conformal import Goal, calibrate, floor
from ghostkv.stages.calibrated.high_probability import (
    BENTKUS,
    BETTING,
    CONFORMAL,
    calibrate_surely,
    leading,
    mean_allowed,
)
from ghostkv.stages.calibrated.validity import (
    Resampling,
    alike_queries,
    alike_texts,
    false_discovery,
    repeat,
)

THETAS = np.linspace(0.0, 1.0, 41)


def curves(rng, texts, queries, effect=0.0, heads=2):
    """Losses that grow with theta; a text moves all its queries by `effect` standard deviations."""
    found = []
    for _ in range(texts):
        moved = rng.normal(size=(heads, 1, 1)) * effect + rng.normal(size=(heads, queries, 1))
        found.append(np.clip(THETAS + 0.2 * moved - 0.3, 0.0, 1.0).astype(np.float32))
    return found


def p_value(mean, samples, target):
    rest = (1 - mean) * np.log((1 - mean) / (1 - target))
    hoeffding = np.exp(-samples * (mean * np.log(max(mean, 1e-300) / target) + rest))
    return min(hoeffding, np.e * binom.cdf(np.ceil(samples * mean - 1e-9), samples, target))


def test_the_mean_that_is_allowed_rejects_at_the_level_and_no_larger_one_does():
    for samples in (60, 288, 1000):
        for target in (0.01, 0.05, 0.2):
            allowed = mean_allowed(samples, target, 0.1)
            if allowed < 0:
                assert np.e * (1 - target) ** samples > 0.1
                assert (1 - target) ** samples > 0.1
                continue
            assert p_value(allowed, samples, target) <= 0.1 * (1 + 1e-9)
            assert p_value(allowed + 1.01 / samples, samples, target) > 0.1
    assert floor(288, 0.1) == pytest.approx(1 - 0.1 ** (1 / 288))
    assert mean_allowed(44, 0.05, 0.1) == -1.0
    assert mean_allowed(45, 0.05, 0.1) >= 0.0


@pytest.mark.parametrize("method", [BENTKUS, BETTING])
@pytest.mark.parametrize("kind", ["coin", "smooth"])
def test_calibrations_above_the_target_stay_under_the_stated_share(method, kind):
    rng = np.random.default_rng(3)
    goal, above, runs = Goal("fer", 0.1), 0, 400
    thetas = np.linspace(0.0, 0.3, 61)
    for _ in range(runs):
        if kind == "coin":
            losses = (rng.random((1, 150, 1)) < thetas).astype(np.float32)
        else:
            losses = np.minimum(rng.gamma(2.0, 0.5, (1, 150, 1)) * thetas, 1.0).astype(np.float32)
        index = calibrate_surely([losses], goal, 0.1, method, 7).index[0]
        above += index >= 0 and thetas[index] > 0.1 + 1e-9
    assert above / runs <= 0.1 + 4 * np.sqrt(0.09 / runs)


def test_both_methods_cost_more_than_a_mean_and_betting_less_where_losses_vary_little():
    rng = np.random.default_rng(4)
    risks, goal = curves(rng, 3, 96), Goal("dropped_mass", 0.05)
    mean = calibrate(risks, goal).index
    bentkus, betting = (calibrate_surely(risks, goal, 0.1, one, 7) for one in (BENTKUS, BETTING))
    assert (bentkus.index < betting.index).all()
    assert (betting.index <= mean).all()
    assert bentkus.guaranteed_if_exchangeable
    assert not calibrate_surely([risks[0][:, :40]], goal, 0.1, BETTING, 7).guaranteed_if_exchangeable


def test_counting_equals_calibrating_each_resample():
    rng = np.random.default_rng(5)
    risks, goal = curves(rng, 5, 24), Goal("fer", 0.2)
    job = Resampling(resamplings=40, failure=0.1, texts=2, seed=9)
    found = {(one.draw, one.method): one for one in repeat(risks, goal, job)}
    assert len(found) == 6
    draws = np.random.default_rng(9).multinomial(2, np.full(5, 0.2), 40)
    parted = np.random.default_rng(9).random((40, 5)).argsort(axis=1) < 2
    everything = np.concatenate(risks, axis=1).mean(axis=1)
    for draw, weights in (("texts", draws), ("split", parted.astype(int))):
        achieved = {CONFORMAL: [], BENTKUS: []}
        for weight in weights:
            drawn = [risk for risk, times in zip(risks, weight, strict=True) for _ in range(times)]
            rest = [risk for risk, times in zip(risks, weight, strict=True) if not times]
            truth = everything if draw == "texts" else np.concatenate(rest, axis=1).mean(axis=1)
            for method in achieved:
                index = (
                    calibrate(drawn, goal).index
                    if method == CONFORMAL
                    else calibrate_surely(drawn, goal, 0.1, BENTKUS, 0).index
                )
                achieved[method].append([truth[h, i] if i >= 0 else 0.0 for h, i in enumerate(index)])
        for method, values in achieved.items():
            one = found[draw, method]
            np.testing.assert_allclose(one.risk, np.mean(values, axis=0), atol=1e-6)
            np.testing.assert_allclose(one.above, (np.array(values) > 0.2 + 1e-6).mean(axis=0))
            assert one.queries == 48


def test_independent_queries_keep_every_promise_and_texts_that_decide_break_the_share():
    rng = np.random.default_rng(6)
    job = Resampling(resamplings=300, failure=0.1, texts=3, seed=1)
    for effect in (0.0, 1.5):
        found = {
            (one.draw, one.method): one
            for one in repeat(curves(rng, 12, 48, effect, heads=20), Goal("fer", 0.2), job)
        }
        for method in (CONFORMAL, BENTKUS):
            assert found["queries", method].risk.max() <= 0.2
        assert found["queries", BENTKUS].above.max() <= 0.1 + 4 * np.sqrt(0.09 / 300)
        above = found["texts", BENTKUS].above.mean()
        assert above > 0.2 if effect else above <= 0.1


def test_permutations_find_dependence_on_the_text_and_only_that():
    rng = np.random.default_rng(7)
    sizes = np.array([30, 50, 20, 40])
    alone = rng.random((300, sizes.sum()))
    p_values = alike_queries(alone, sizes, 199, 0)
    assert 0.02 <= (p_values <= 0.05).mean() <= 0.09
    assert false_discovery(p_values) == 0
    moved = alone + np.repeat(rng.normal(size=(300, 4)), sizes, axis=1)
    p_values = alike_queries(moved, sizes, 199, 0)
    assert (p_values <= 0.005).mean() > 0.9
    assert false_discovery(p_values) > 270
    assert (alike_queries(np.zeros((2, sizes.sum())), sizes, 99, 0) == 1.0).all()


def test_roles_that_lose_alike_are_told_from_roles_that_do_not():
    rng = np.random.default_rng(8)
    first = np.arange(9) < 3
    whole = []
    for seed in range(200):
        # Heads are far from independent of each other: texts move all of them.
        means = rng.normal(size=(1, 9)) + 0.3 * rng.normal(size=(40, 9))
        whole.append(alike_texts(means, first, 200, seed).joint)
    assert 0.01 <= np.mean(np.array(whole) <= 0.05) <= 0.10
    found = alike_texts(rng.normal(size=(40, 9)) + 8.0 * first, first, 200, 0)
    assert found.joint == found.least == pytest.approx(1 / 84)
    assert alike_texts(np.zeros((3, 6)), np.arange(6) < 3, 99, 0).joint == 1.0
    many = alike_texts(rng.normal(size=(5, 30)), np.arange(30) < 10, 99, 0)
    assert many.least >= 0.01


def test_leading_stops_at_the_first_that_fails():
    within = np.array([[True, True, False, True], [False, True, True, True], [True] * 4])
    assert leading(within).tolist() == [1, -1, 3]
