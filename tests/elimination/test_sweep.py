"""The counting sweep equals the loops it replaces, to the last count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.elimination.grid import Grid
from ghostkv.elimination.sweep import sweep
from ghostkv.stages.benchmark.sweep_loop import sweep_by_loop, sweep_by_theta


def tensors(seed, group=2, queries=5, keys=90, width=6, ties=False):
    rng = np.random.default_rng(seed)
    statistic = rng.normal(size=(group, queries, keys)).astype(np.float32)
    if ties:
        statistic = np.round(statistic * 2) / 2
    statistic[rng.random(statistic.shape) < 0.05] = np.inf
    mass = rng.random((group, queries, keys)).astype(np.float32) ** 8
    mass /= mass.sum(axis=-1, keepdims=True)
    needed = rng.integers(0, 8, statistic.shape).astype(np.uint8)
    start = rng.integers(0, 10, queries).astype(np.int64)
    stop = rng.integers(start, keys, queries).astype(np.int64)
    values = rng.normal(size=(keys, width)).astype(np.float32)
    return statistic, mass, needed, start, stop, values, mass @ values


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    thetas=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40, unique=True),
    ties=st.booleans(),
)
def test_sweep_equals_both_loops(seed, thetas, ties):
    thetas = np.unique(np.array(thetas, np.float32) + np.float32(0))
    statistic, mass, needed, start, stop, values, outputs = tensors(seed, ties=ties)
    swept = sweep(statistic, mass, needed, start, stop, Grid.of(thetas), values, outputs)
    by_theta = sweep_by_theta(statistic, mass, needed, start, stop, thetas, values, outputs)
    by_loop = sweep_by_loop(statistic, mass, needed, start, stop, thetas)
    for name in ("eliminated", "false", "lost_95", "lost_99", "survivors_union"):
        assert np.array_equal(getattr(swept, name), getattr(by_theta, name)), name
        assert np.array_equal(getattr(swept, name), getattr(by_loop, name)), name
    assert np.allclose(swept.mass, by_theta.mass, atol=1e-6)
    kept = 1 - by_theta.mass
    assert np.allclose((swept.error * kept), (by_theta.error * kept), atol=1e-4)


def test_a_statistic_equal_to_theta_survives():
    statistic = np.array([[[0.5, 0.5, 0.25]]], np.float32)
    ones, flags = np.full_like(statistic, 1 / 3), np.ones(statistic.shape, np.uint8)
    bounds = np.array([0]), np.array([3])
    swept = sweep(statistic, ones, flags, *bounds, Grid.of(np.array([0.25, 0.5, 0.75])))
    assert swept.eliminated[0, 0].tolist() == [0, 1, 3]


def test_bins_equal_searchsorted_at_and_around_every_threshold():
    rng = np.random.default_rng(3)
    for thetas in (
        np.linspace(-2, 0.5, 126),
        np.array([0.0]),
        np.cumsum(rng.exponential(size=50) ** 6) - 3,
        np.array([-1e30, -1.0, 0.0, 1e-30, 1.0, 1e30]),
    ):
        theta = np.unique(thetas.astype(np.float32))
        around = np.concatenate([theta, np.nextafter(theta, -np.inf), np.nextafter(theta, np.inf)])
        statistic = np.concatenate([around, [-np.inf, np.inf]]).astype(np.float32)[None, None]
        flags, mass = np.zeros(statistic.shape, np.uint8), np.zeros_like(statistic)
        swept = sweep(statistic, mass, flags, np.array([0]), np.array([statistic.size]), Grid.of(theta))
        expected = (statistic[0, 0][:, None] < theta).sum(axis=0)
        assert swept.eliminated[0, 0].tolist() == expected.tolist()


def test_more_thetas_change_no_count():
    statistic, mass, needed, start, stop, *_ = tensors(1)
    many = np.linspace(-2, 2, 1001).astype(np.float32)
    few = many[::100]
    dense = sweep(statistic, mass, needed, start, stop, Grid.of(many))
    sparse = sweep(statistic, mass, needed, start, stop, Grid.of(few))
    assert np.array_equal(dense.eliminated[..., ::100], sparse.eliminated)
    assert np.allclose(dense.mass[..., ::100], sparse.mass)


@pytest.mark.parametrize(
    "thetas", [[], [1.0, 1.0], [2.0, 1.0], [0.0, np.nan], [0.0, np.inf], [1.0, 1.0 + 1e-12]]
)
def test_thresholds_must_ascend(thetas):
    with pytest.raises(ValueError, match="strictly ascending"):
        Grid.of(np.array(thetas))
