"""Ours: the record's code alone is paid, estimates choose the keys, and the tail is compensated by the formula."""

import numpy as np
import pytest

from ghostkv.elimination.compensation import compensate


def estimated_mass(bench, size=2):
    codec, decoded = bench.scene.records("transform_code", size)
    projected = codec.project(bench.scene.queries.reshape(-1, 16))
    scores = codec.estimate(projected, decoded, bench.scene.scale).reshape(bench.scene.shape).astype(float)
    known = np.isfinite(bench.scene.known)
    scores = np.where(known, bench.scene.known, np.where(bench.cold(), scores, -np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores, weights / weights.sum(axis=-1, keepdims=True)


def test_keys_are_read_in_order_of_estimated_mass(bench, selector):
    selection = bench.select(selector("ghost", bits=1.0))
    mass = estimated_mass(bench)[1].mean(axis=0)
    read = bench.read(selection, 2)
    for q in range(len(read)):
        left = mass[q][bench.cold()[q] & ~read[q]]
        assert mass[q][read[q]].min(initial=1) >= left.max() * (1 - 1e-4)


def test_the_output_is_compensated_by_the_formula(bench, selector):
    selection = bench.select(selector("ghost", bits=1.0), column="compensated")
    scores, _ = estimated_mass(bench)
    measured = bench.measure(selection)["output_error"]
    values = bench.truth.values.astype(float)
    for r, g, q in ((1, 0, 0), (2, 1, 5), (3, 0, 9)):
        exact, cold = bench.truth.scores[g, q].astype(float), bench.cold()[q]
        kept = np.isfinite(bench.scene.known[g, q]) | bench.read(selection, r)[q]
        dropped = cold & ~kept
        e, tail = np.exp(exact[kept]), np.exp(scores[g, q][dropped]).sum()
        output = (e @ values[kept] + tail * values[cold].mean(axis=0)) / (e.sum() + tail)
        truth = bench.truth.outputs[g, q]
        error = np.linalg.norm(output - truth) / np.linalg.norm(truth)
        assert measured[r, g, q] == pytest.approx(error, rel=1e-3, abs=1e-5)


def test_codes_are_paid_once_per_kv_head(bench, selector):
    selection = bench.select(selector("ghost", bits=1.0))
    assert np.allclose(selection.index_bytes[2], 2 * bench.scene.visible.cold)
    measured = bench.measure(selection)
    union = bench.read(selection, 2).sum(axis=-1)
    visible = bench.scene.visible
    expected = (2 * visible.cold + 64 * (union + visible.visible - visible.cold)) / (64 * visible.visible)
    assert np.allclose(measured["bytes_ratio_gqa"][2, 0], expected)


def test_with_one_budget_sharp_queries_read_less(bench, selector):
    ghost = selector("ghost", bits=1.0)
    fixed = bench.read(bench.select(ghost), 2).sum(axis=-1)
    shared = bench.read(bench.select(ghost, column="one_budget"), 2).sum(axis=-1)
    assert shared.std() > fixed.std()


def test_the_mean_of_v_changes_nothing_where_nothing_is_dropped():
    rng = np.random.default_rng(0)
    kept, mass = rng.normal(size=(3, 5)), rng.random(3) + 1
    output = compensate(kept, mass, np.zeros((3, 1)), rng.normal(size=(3, 1, 5)))
    assert np.allclose(output, kept / mass[:, None])
