"""Ours: estimated mass decides, theta spends the mean budget, the tail is compensated."""

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
    _, mass = estimated_mass(bench)
    read = bench.read(selection, 2)
    for g, q in np.ndindex(read.shape[:2]):
        left = mass[g, q][bench.cold()[q] & ~read[g, q]]
        assert mass[g, q][read[g, q]].min(initial=1) >= left.max() * (1 - 1e-4)


def test_the_output_is_compensated_by_the_formula(bench, selector):
    selection = bench.select(selector("ghost", bits=1.0))
    scores, _ = estimated_mass(bench)
    measured = bench.measure(selection)["output_error"]
    values = bench.truth.values.astype(float)
    for r, g, q in ((1, 0, 0), (2, 1, 5), (3, 0, 9)):
        exact, cold = bench.truth.scores[g, q].astype(float), bench.cold()[q]
        kept = np.isfinite(bench.scene.known[g, q]) | bench.read(selection, r)[g, q]
        dropped = cold & ~kept
        e, tail = np.exp(exact[kept]), np.exp(scores[g, q][dropped]).sum()
        output = (e @ values[kept] + tail * values[cold].mean(axis=0)) / (e.sum() + tail)
        truth = bench.truth.outputs[g, q]
        error = np.linalg.norm(output - truth) / np.linalg.norm(truth)
        assert measured[r, g, q] == pytest.approx(error, rel=1e-3, abs=1e-5)


def test_page_means_are_paid_and_used(bench, selector):
    plain = bench.select(selector("ghost", bits=1.0))
    index = np.array(plain.index_bytes)
    paged = bench.select(selector("ghost", bits=1.0, page=32))
    pages = -(-bench.scene.visible.cold // 32)
    assert np.allclose(paged.index_bytes - index, pages * 32)
    errors = bench.measure(paged)["output_error"]
    assert np.isfinite(errors[-1]).all()
    # One page over everything is the running mean.
    whole = bench.select(selector("ghost", bits=1.0, page=512))
    compensated = bench.measure(whole)["output_error"][-1].mean()
    running = bench.measure(bench.select(selector("ghost", bits=1.0)))["output_error"][-1].mean()
    assert compensated == pytest.approx(running, rel=0.2)


def test_records_are_paid_once_per_kv_head(bench, selector):
    selection = bench.select(selector("ghost", bits=1.0))
    assert np.allclose(selection.index_bytes[2, 0], 3 * bench.scene.visible.cold)
    measured = bench.measure(selection)
    union = bench.read(selection, 2).any(axis=0).sum(axis=-1)
    visible = bench.scene.visible
    expected = (3 * visible.cold + 64 * (union + visible.visible - visible.cold)) / (64 * visible.visible)
    assert np.allclose(measured["bytes_ratio_gqa"][2, 0], expected)


def test_theta_comes_from_threshold_text_and_sharp_queries_read_less(bench, selector):
    ghost = selector("ghost", bits=1.0)
    theta = ghost.fit(bench.calibration)
    assert theta.shape == (4, 2)
    assert (np.diff(theta[np.isfinite(theta).all(axis=1)], axis=0) < 0).all()
    adaptive = bench.read(bench.select(ghost), 2).sum(axis=-1)
    fixed = bench.read(bench.select(selector("ghost", bits=1.0, adaptive=False)), 2).sum(axis=-1)
    assert adaptive.std() > fixed.std()


def test_the_mean_of_v_changes_nothing_where_nothing_is_dropped():
    rng = np.random.default_rng(0)
    kept, mass = rng.normal(size=(3, 5)), rng.random(3) + 1
    output = compensate(kept, mass, np.zeros((3, 1)), rng.normal(size=(3, 1, 5)))
    assert np.allclose(output, kept / mass[:, None])
