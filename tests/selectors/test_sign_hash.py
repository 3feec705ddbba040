"""Signatures: agreeing bits and soft collisions by loops, and a map to scores that rises."""

import numpy as np
import pytest

from ghostkv.selectors.sign_hash import _rising

SOFT = {"score": "soft", "planes": "random", "bits": 32, "bits_per_table": 4}


def agreeing(fitted, key, query):
    mean, keys, queries, _ = fitted
    return sum((a > 0) == (b > 0) for a, b in zip((key - mean) @ keys, query @ queries, strict=True))


def soft(fitted, key, query, tau):
    mean, planes, _, _ = fitted
    total = 0.0
    query, signs = query / np.linalg.norm(query), (key - mean) @ planes > 0
    for first in range(0, 32, 4):
        tilt = np.tanh(query.astype(float) @ planes[:, first : first + 4]) / tau
        odds = {}
        for corner in np.ndindex(2, 2, 2, 2):
            odds[corner] = np.exp(sum(t * (1 if c else -1) for t, c in zip(tilt, corner, strict=True)))
        total += odds[tuple(signs[first : first + 4].astype(int))] / sum(odds.values())
    return total


@pytest.mark.parametrize("planes", ["random", "learned"])
def test_keys_are_read_in_order_of_agreeing_bits(bench, selector, planes):
    hashed, scene = selector("sign_hash", bits=16, planes=planes), bench.scene
    fitted = hashed.fit(bench.calibration)
    scores = hashed.estimate(fitted, scene).scores
    for g, q in ((0, 3), (1, 9)):
        cold = np.flatnonzero(bench.cold()[q])[::7]
        bits = np.array([agreeing(fitted, scene.keys[j], scene.queries[g, q]) for j in cold])
        for many in set(bits):
            assert np.ptp(scores[g, q, cold[bits == many]]) < 1e-4
        levels = [scores[g, q, cold[bits == many]].mean() for many in sorted(set(bits))]
        assert len(levels) >= 4
        assert (np.diff(levels) > 0).all()


def test_soft_collisions_are_those_of_the_rule(bench, selector):
    hashed, scene = selector("sign_hash", **SOFT), bench.scene
    fitted = hashed.fit(bench.calibration)
    scores = hashed.estimate(fitted, scene).scores[1, 9]
    cold = np.flatnonzero(bench.cold()[9])[::5]
    rule = np.array([soft(fitted, scene.keys[j], scene.queries[1, 9], hashed.tau) for j in cold])
    inside = (np.log(rule) > fitted[3][0][0]) & (np.log(rule) < fitted[3][0][1])
    order = np.argsort(rule[inside])
    assert inside.sum() > 20
    assert (np.diff(scores[cold[inside]][order]) >= -1e-4).all()
    assert np.ptp(scores[cold]) > 0.1


def test_the_map_is_the_mean_score_where_that_rises_and_pooled_where_it_falls():
    said = np.repeat([0.0, 1.0, 2.0, 3.0], 10)
    score = np.repeat([0.0, 2.0, 1.0, 5.0], 10)
    ends, values = _rising(said, score)
    assert ends == (0.0, 3.0)
    assert values[[0, 85, 170, 255]] == pytest.approx([0, 1.5, 1.5, 5], abs=0.01)
    assert (np.diff(values) > 0).all()


def test_learned_planes_find_more_of_the_best_keys(bench, selector):
    found = {}
    for planes in ("random", "learned"):
        selection = bench.select(selector("sign_hash", bits=16, planes=planes))
        found[planes] = bench.measure(selection)["dropped_mass"][1].mean()
    assert found["learned"] < found["random"]


def test_the_bits_of_a_signature_are_paid(bench, selector):
    selection = bench.select(selector("sign_hash", bits=32))
    assert np.allclose(selection.index_bytes[2], 4 * bench.scene.visible.cold)
