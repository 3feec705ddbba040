"""One bit a component: the papers' estimates by loops, bytes, and no bias over rotations."""

import numpy as np
import pytest

from ghostkv.selectors.one_bit import random_rotation, rotated_signs


def test_rotated_scores_are_those_of_the_rule(bench, selector):
    one, scene = selector("one_bit", scheme="rotated"), bench.scene
    mean, rotation = one.fit(bench.calibration)
    scores = one.estimate((mean, rotation), scene).scores
    for g, q in ((0, 0), (1, 7)):
        query = rotation.T.astype(float) @ scene.queries[g, q]
        for j in np.flatnonzero(bench.cold()[q])[::11]:
            y = rotation.T.astype(float) @ (scene.keys[j] - mean)
            b = [1 if component > 0 else -1 for component in y]
            estimate = (y @ y) * np.dot(b, query) / np.dot(b, y)
            expected = scene.scale * (mean @ scene.queries[g, q] + estimate)
            # The factor is kept in fp16.
            assert scores[g, q, j] == pytest.approx(expected, abs=2e-3 * max(1, abs(estimate)))


def test_rotated_estimates_have_no_bias_over_rotations():
    rng = np.random.default_rng(0)
    key, query = rng.normal(size=(1, 16)), rng.normal(size=16)
    estimates = []
    for seed in range(4000):
        rotation = random_rotation(16, seed)
        signs, factors = rotated_signs(key, rotation)
        estimates.append(factors[0] * (signs[0] @ (query @ rotation)))
    spread = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - key[0] @ query) < 4 * spread
    assert spread < 0.05


def test_grouped_scores_are_those_of_the_rule(bench, selector):
    one, scene, group = selector("one_bit", scheme="grouped", group=32), bench.scene, 32
    scores = one.estimate(None, scene).scores
    stood = np.zeros(scene.keys.shape)
    for first in range(0, len(stood), group):
        for c in range(stood.shape[1]):
            run = scene.keys[first : first + group, c].astype(float)
            middle = (run.max() + run.min()) / 2
            for j, value in enumerate(run):
                level = run[run > middle] if value > middle else run[run <= middle]
                stood[first + j, c] = np.float16(level.mean())
    expected = scene.queries.astype(float) @ stood.T * scene.scale
    assert np.allclose(scores, expected, atol=2e-2)


def test_two_levels_err_less_than_the_ends_of_the_range(bench):
    from ghostkv.selectors.one_bit import two_levels

    keys = bench.scene.keys[:288]
    runs = keys.reshape(9, 32, -1)
    low, high = runs.min(axis=1, keepdims=True), runs.max(axis=1, keepdims=True)
    ends = np.where(runs > (low + high) / 2, high, low).reshape(keys.shape)
    assert ((two_levels(keys, 32) - keys) ** 2).mean() < 0.5 * ((ends - keys) ** 2).mean()


def test_a_bit_a_component_and_the_factors_are_paid(bench, selector):
    cold = bench.scene.visible.cold
    rotated = bench.select(selector("one_bit", scheme="rotated"))
    assert np.allclose(rotated.index_bytes[2], (16 / 8 + 2) * cold)
    grouped = bench.select(selector("one_bit", scheme="grouped", group=32))
    runs = [len(set(np.flatnonzero(row) // 32)) for row in bench.cold()]
    assert np.allclose(grouped.index_bytes[2], 2 * cold + np.array(runs) * 2 * 2 * 16)
