"""Threshold rules look only at what is known, and conformal choices keep their promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.codecs.records import CodecSpec
from ghostkv.elimination.attention import cold_range
from ghostkv.elimination.schemas import POINT_SCHEMA
from ghostkv.elimination.thresholds import (
    RULES,
    calibrated_thetas,
    conformal_index,
    kept_or_estimated,
    reference,
    statistic,
    union_survivors,
)
from ghostkv.files.errors import ConfigError, TableError
from ghostkv.files.tables import write_rows

VISIBLE = cold_range(np.array([30, 39]), np.zeros(2), 2, 6)


def tensors(seed=0):
    rng = np.random.default_rng(seed)
    estimates = rng.normal(size=(2, 2, 40)).astype(np.float32)
    exact = estimates + rng.normal(size=estimates.shape).astype(np.float32)
    exact[:, 0, 31:] = -np.inf
    return (
        estimates,
        exact,
        rng.uniform(0.5, 2, (2, 2)).astype(np.float32),
        rng.uniform(0.1, 1, 40).astype(np.float32),
    )


def test_nothing_known_at_query_time_uses_the_exact_score_of_a_cold_key():
    estimates, exact, *_ = tensors()
    leaked = exact.copy()
    for q in range(2):
        leaked[:, q, VISIBLE.start[q] : VISIBLE.stop[q]] = 1e6
    honest = kept_or_estimated(estimates, exact, VISIBLE)
    assert np.array_equal(honest, kept_or_estimated(estimates, leaked, VISIBLE))
    assert np.array_equal(honest[:, 1, :2], exact[:, 1, :2])
    assert np.array_equal(honest[:, 1, 34:], exact[:, 1, 34:])
    assert np.array_equal(honest[:, 1, 2:34], estimates[:, 1, 2:34])


def test_statistics_are_their_formulas():
    estimates, exact, weight, radius = tensors()
    known = kept_or_estimated(estimates, exact, VISIBLE)
    margin = weight[..., None] * radius
    tau = -np.sort(-known, axis=-1)[..., 4]
    lse = np.log(np.exp(known).sum(axis=-1))
    expected = {
        "absolute": estimates + margin,
        "relative_topk": (estimates - tau[..., None]) / margin,
        "relative_lse": estimates - lse[..., None],
    }
    for rule in RULES:
        origin = reference(rule, known, VISIBLE, 5)
        found = statistic(rule, estimates, origin, weight, radius, VISIBLE)
        for q in range(2):
            cold = slice(VISIBLE.start[q], VISIBLE.stop[q])
            assert np.allclose(found[:, q, cold], expected[rule][:, q, cold], atol=1e-5), rule


@pytest.mark.parametrize("rule", RULES)
def test_a_record_that_bounds_nothing_is_never_eliminated(rule):
    estimates, exact, weight, radius = tensors()
    radius[10] = np.inf
    origin = reference(rule, kept_or_estimated(estimates, exact, VISIBLE), VISIBLE, 5)
    found = statistic(rule, estimates - 1000, origin, weight, radius, VISIBLE)
    assert np.isposinf(found[:, :, 10]).all()
    assert np.isfinite(np.delete(found, 10, axis=-1)).all()


def test_unknown_rule_names_the_known_ones():
    with pytest.raises(ConfigError, match="no threshold rule 'median'.*relative_lse"):
        reference("median", np.zeros((1, 1, 4), np.float32), VISIBLE, 1)


def test_no_threshold_is_chosen_below_the_conformal_floor():
    # With 99 queries no target under 1 % can be promised, not even by a threshold that never erred.
    assert conformal_index(np.zeros(5), 99, 0.0099) == -1
    assert conformal_index(np.zeros(5), 99, 0.0101) == 4


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_conformal_choice_is_the_last_before_the_target_is_passed(seed):
    rng = np.random.default_rng(seed)
    risk = np.sort(rng.random(20) * 0.2)
    index = conformal_index(risk, 200, 0.1)
    controlled = (200 * risk + 1) / 201 <= 0.1
    assert index == controlled.sum() - 1
    # A risk that dips again later is not trusted.
    risk[3] = 1.0
    assert conformal_index(risk, 200, 0.1) <= 2


def test_conformal_risk_is_controlled_on_exchangeable_queries():
    # Loss of query i at theta_t is 1 once t passes its own random point: risk at theta_t is t / T.
    rng = np.random.default_rng(0)
    target, thetas, samples = 0.05, 400, 150
    achieved = []
    for _ in range(600):
        points = rng.integers(1, thetas + 1, samples + 1)
        losses = np.arange(thetas)[None, :] >= points[:, None]
        index = conformal_index(losses[:-1].mean(axis=0), samples, target)
        achieved.append(losses[-1, index] if index >= 0 else 0.0)
    error = np.std(achieved) / np.sqrt(len(achieved))
    assert np.mean(achieved) <= target + 3 * error
    # And not by eliminating nothing.
    assert np.mean(achieved) > target / 3


def test_united_survivors_count_a_key_once():
    rng = np.random.default_rng(1)
    statistics = rng.normal(size=(3, 2, 40)).astype(np.float32)
    theta = np.array([0.5, -np.inf, 1.0], np.float32)
    found = union_survivors(statistics, theta, VISIBLE.start, VISIBLE.stop)
    assert found.tolist() == VISIBLE.cold.tolist()
    theta[1] = 0.8
    found = union_survivors(statistics, theta, VISIBLE.start, VISIBLE.stop)
    kept = (statistics >= theta[:, None, None]).any(axis=0)
    assert found.tolist() == [kept[q, VISIBLE.start[q] : VISIBLE.stop[q]].sum() for q in range(2)]


def test_calibrated_thetas_are_those_of_one_goal_and_minus_infinity_where_none_met_it(tmp_path):
    rows = [
        {"layer": layer, "head": head, "codec": "pca", "code_bytes": size, "rule": "absolute", "target_metric": "fer",
         "target": target, "method": method, "theta": None if head else layer + size + target, "text": text}
        for layer in (3, 7) for head in (1, 0) for size in (4, 8) for target in (0.01, 0.25)
        for method in ("calibrated", "hindsight") for text in ("a", "b")
    ]  # fmt: skip
    path = str(tmp_path / "points.parquet")
    write_rows(rows, path, POINT_SCHEMA, {})
    found = calibrated_thetas(path, CodecSpec("pca", 8), "absolute", "fer", 0.25)
    assert {layer: theta.tolist() for layer, theta in found.items()} == {
        3: [11.25, -np.inf],
        7: [15.25, -np.inf],
    }
    assert list(calibrated_thetas(path, CodecSpec("pca", 8), "absolute", "fer", 0.25, layer=7)) == [7]
    with pytest.raises(
        TableError, match=r"no calibrated fer point at 0\.5.*Accepted: \[\('fer', 0\.01\), \('fer', 0\.25"
    ):
        calibrated_thetas(path, CodecSpec("pca", 8), "absolute", "fer", 0.5)
    with pytest.raises(TableError, match="in layer 4"):
        calibrated_thetas(path, CodecSpec("pca", 8), "absolute", "fer", 0.25, layer=4)
