"""Generated tensors follow the law that they state; planted keys have the score that was wished."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from ghostkv.captures.generated import Asks, choose_asks, draw, plant
from ghostkv.captures.generators import GENERATORS, make
from ghostkv.config.synthetic import PARAMETERS
from ghostkv.elimination.attention import cold_range, exact_attention, scores

WIDTH, TOKENS = 32, 2048


def drawn(name, seed=1, text="t", queries=16, **entry):
    positions = np.arange(TOKENS - queries, TOKENS)
    generator = make({"name": name, **entry}, span=TOKENS)
    return generator, draw(generator, seed, text, TOKENS, positions, width=WIDTH, group=3)


def cold_scores(found):
    capture = found.capture
    keys = capture.keys[0].astype(np.float32)
    return scores(capture.queries, keys, capture.scale)[..., 8:1024].astype(np.float64)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_draw_is_a_capture_and_depends_on_seed_and_text_alone(name):
    (_, a), (_, b), (_, other) = (drawn(name, text=text) for text in ("t", "t", "u"))
    capture = a.capture
    assert capture.keys.dtype == np.float16
    assert capture.queries.dtype == np.float32
    assert (capture.kv_heads, capture.group, capture.tokens) == (1, 3, TOKENS)
    assert np.isfinite(capture.keys.astype(np.float32)).all()
    assert np.array_equal(capture.keys, b.capture.keys)
    assert np.array_equal(capture.queries, b.capture.queries)
    assert not np.array_equal(capture.keys, other.capture.keys)
    # Another text of the same world.
    assert np.array_equal(a.worlds[0].key_root, other.worlds[0].key_root)


@pytest.mark.parametrize("name", GENERATORS)
def test_queries_have_the_second_moment_that_the_generator_states(name):
    generator = make({"name": name})
    world = generator.world(np.random.default_rng(0), 8)
    queries = generator.queries(np.random.default_rng(1), world, 1, 200_000)[0]
    expected = generator.query_moment(world)
    np.testing.assert_allclose(queries.T @ queries / len(queries), expected, atol=0.03 * np.trace(expected))


@pytest.mark.parametrize("name", ["gaussian", "anisotropic", "needles", "heavy_tailed"])
def test_scores_vary_by_the_spread_that_was_asked_for(name):
    found = [cold_scores(drawn(name, seed=seed, spread=1.5)[1]).std() for seed in range(12)]
    assert np.mean(found) == pytest.approx(1.5, rel=0.05)


def test_scores_are_normal_student_or_moving_as_stated():
    generator, found = drawn("gaussian")
    spread = found.capture.scale * np.linalg.norm(found.capture.queries, axis=-1)
    assert kstest((cold_scores(found)[0, 0] / spread[0, 0]), "norm").pvalue > 1e-3
    generator, found = drawn("heavy_tailed", dof=3.5)
    spread = found.capture.scale * np.linalg.norm(found.capture.queries, axis=-1)
    student = cold_scores(found)[0, 0] / spread[0, 0] * np.sqrt(3.5 / 1.5)
    assert kstest(student, "t", args=(3.5,)).pvalue > 1e-3
    assert kstest(student / np.sqrt(3.5 / 1.5), "norm").pvalue < 1e-2  # and normal it is not
    generator, found = drawn("drifting")
    world, position = found.worlds[0], np.arange(8, 1024)
    slope = found.capture.scale * generator.key_mean(world, position) @ found.capture.queries[0, 0]
    residual = (cold_scores(found)[0, 0] - slope) / (
        found.capture.scale * np.linalg.norm(found.capture.queries[0, 0])
    )
    assert kstest(residual, "norm").pvalue > 1e-3


def test_a_spectrum_is_the_one_chosen():
    generator = make({"name": "anisotropic", "decay": 1.5})
    world = generator.world(np.random.default_rng(0), 16)
    values = np.sort(np.linalg.eigvalsh(world.key_covariance))[::-1]
    np.testing.assert_allclose(values / values[0], np.arange(1, 17) ** -1.5, rtol=1e-6)


def test_sinks_have_one_score_and_the_mass_that_was_asked_for():
    generator, found = drawn("sinks", mass=0.7, count=3)
    capture = found.capture
    visible = cold_range(capture.positions, capture.first_visible(), 0, 1)
    exact = exact_attention(capture, 0, capture.keys[0].astype(np.float32), visible, 4)
    assert np.ptp(exact.scores[..., :3]) < 0.02
    assert exact.mass[..., :3].sum(axis=-1).mean() == pytest.approx(0.7, abs=0.03)


def test_needles_have_the_mass_that_was_asked_for_and_only_where_asked():
    masses, plain = [], []
    for seed in range(8):
        generator, found = drawn("needles", seed=seed, mass=0.4, count=4, spread=1.0)
        capture = found.capture
        rows = np.flatnonzero(found.asked[0] >= 0)
        assert len(rows) == 4
        visible = cold_range(capture.positions, capture.first_visible(), 0, 1)
        exact = exact_attention(capture, 0, capture.keys[0].astype(np.float32), visible, 4)
        masses.append(exact.mass[:, rows, found.asked[0][rows]].mean())
        plain.append(np.delete(exact.mass, rows, axis=1)[..., found.asked[0][rows]].mean())
    assert np.mean(masses) == pytest.approx(0.4, abs=0.02)
    assert max(plain) < 0.02


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    group=st.integers(1, 6),
    score=st.floats(-20, 40),
    count=st.integers(1, 20),
)
def test_planted_keys_score_as_wished_for_every_head_and_others_stay(seed, group, score, count):
    rng = np.random.default_rng(seed)
    keys, queries = rng.normal(size=(64, 16)), 2 * rng.normal(size=(group, 20, 16))
    before, asked = keys.copy(), np.full(20, -1)
    asked[:count] = rng.permutation(64)[:count]
    plant(keys, queries, Asks(asked, np.full(20, score)), 0.25)
    where = asked[:count]
    reached = 0.25 * np.einsum("gad,ad->ga", queries[:, :count], keys[where])
    np.testing.assert_allclose(reached, score, atol=1e-6 * max(1, abs(score)))
    rest = np.setdiff1d(np.arange(64), where)
    assert np.array_equal(keys[rest], before[rest])
    # The change lies in the span of the group's queries: across it the key is as it was.
    for row, key in enumerate(where):
        basis = np.linalg.qr(queries[:, row].T)[0]
        change = keys[key] - before[key]
        np.testing.assert_allclose(change, basis @ (basis.T @ change), atol=1e-6 * max(1, abs(score)))


@given(
    seed=st.integers(0, 999), start=st.integers(1, 600), count=st.integers(1, 300), margin=st.integers(0, 80)
)
def test_asked_keys_are_distinct_and_cold(seed, start, count, margin):
    positions = np.arange(start, start + count)
    asks = choose_asks(np.random.default_rng(seed), positions, positions % 3 == 0, margin, np.zeros(count))
    chosen = asks.asked >= 0
    assert len(np.unique(asks.asked[chosen])) == chosen.sum()
    assert (asks.asked[chosen] >= margin).all()
    assert (asks.asked[chosen] < positions[chosen] - margin).all()
    assert not chosen[positions % 3 != 0].any()


def test_the_config_knows_the_parameters_of_every_generator():
    common = {"spread", "span"}
    for name, kind in GENERATORS.items():
        assert set(PARAMETERS[name]) == {field.name for field in dataclasses.fields(kind)} - common
    assert set(PARAMETERS) == set(GENERATORS)
