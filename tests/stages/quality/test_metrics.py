"""Divergences equal their definitions, intervals cover, and curves are never extrapolated."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ghostkv.stages.quality.intervals import Draws, at_bytes, block_sums, span
from ghostkv.stages.quality.metrics import NO_TOKEN, divergence

LOGITS = arrays(np.float32, (3, 7), elements=st.floats(-60, 60, width=32))


def by_hand(dense, sparse, tokens):
    """The definitions, in float64 and without a shift."""
    p, q = (scipy.special.log_softmax(x.astype(np.float64), axis=1) for x in (dense, sparse))
    rows = np.arange(len(dense))
    ordered = np.sort(p, axis=1)
    return {
        "kl": (np.exp(p) * (p - q)).sum(axis=1),
        "agree": dense.argmax(axis=1) == sparse.argmax(axis=1),
        "dense_nll": np.where(tokens < 0, np.nan, -p[rows, tokens]),
        "sparse_nll": np.where(tokens < 0, np.nan, -q[rows, tokens]),
        "max_logit_difference": np.abs(dense.astype(np.float64) - sparse).max(axis=1),
        "dense_entropy": -(np.exp(p) * p).sum(axis=1),
        "dense_margin": ordered[:, -1] - ordered[:, -2],
        "dense_top": dense.argmax(axis=1),
        "sparse_top": sparse.argmax(axis=1),
    }


@settings(deadline=None)
@given(LOGITS, LOGITS)
def test_every_number_equals_its_definition(dense, sparse):
    tokens = np.array([0, NO_TOKEN, 6])
    found = divergence(dense, sparse, tokens)
    for name, expected in by_hand(dense, sparse, tokens).items():
        np.testing.assert_allclose(found.columns()[name], expected, atol=1e-9, rtol=1e-9, err_msg=name)


@settings(deadline=None)
@given(LOGITS, LOGITS, st.floats(-30, 30, width=32))
def test_kl_is_not_negative_and_no_shift_of_all_logits_changes_it(dense, sparse, shift):
    found = divergence(dense, sparse, np.zeros(3, int))
    assert (found.kl >= 0).all()
    # Probabilities stay the same; logits of 60 carry rounding of 4e-6 each.
    moved = divergence(dense, sparse + np.float32(shift), np.zeros(3, int))
    np.testing.assert_allclose(moved.kl, found.kl, atol=5e-5)


def test_identical_logits_have_no_divergence():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 500)).astype(np.float32) * 10
    found = divergence(logits, logits.copy(), np.zeros(20, int))
    assert (found.kl == 0).all()
    assert found.agree.all()
    assert (found.max_logit_difference == 0).all()
    np.testing.assert_array_equal(found.dense_nll, found.sparse_nll)


def test_a_divergence_of_a_millionth_is_resolved():
    rng = np.random.default_rng(1)
    dense = rng.normal(size=(50, 5000)).astype(np.float32) * 5
    sparse = dense + rng.normal(size=dense.shape).astype(np.float32) * 2e-3
    expected = by_hand(dense, sparse, np.zeros(50, int))["kl"]
    assert (expected < 1e-5).all()
    np.testing.assert_allclose(divergence(dense, sparse, np.zeros(50, int)).kl, expected, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused_and_not_averaged(value):
    dense = np.zeros((3, 5), np.float32)
    sparse = dense.copy()
    sparse[1, 2] = value
    with pytest.raises(ValueError, match="position 1: a logit is not finite"):
        divergence(dense, sparse, np.zeros(3, int))


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        divergence(np.zeros((3, 5)), np.zeros((3, 6)), np.zeros(3, int))
    with pytest.raises(ValueError, match="does not hold"):
        divergence(np.zeros((3, 5)), np.zeros((3, 5)), np.array([0, 1, 5]))


def test_block_sums_leave_absent_values_out():
    sums, counts = block_sums(np.array([[1.0, np.nan, 3.0, 4.0, np.nan]]), 2)
    np.testing.assert_array_equal(sums, [[1, 7, 0]])
    np.testing.assert_array_equal(counts, [[1, 2, 0]])


def test_draws_are_of_blocks_within_each_document_and_repeat_with_the_seed():
    draws = Draws.make([3, 5], 400, seed=3)
    # A document that is drawn once has as many blocks drawn as it holds.
    assert set(draws.weights[:, :3].sum(axis=1)) == {0, 3, 6}
    assert set(draws.weights[:, 3:].sum(axis=1)) == {0, 5, 10}
    np.testing.assert_array_equal(draws.weights, Draws.make([3, 5], 400, seed=3).weights)
    assert (draws.weights != Draws.make([3, 5], 400, seed=4).weights).any()


def test_documents_are_drawn_first():
    draws = Draws.make([4, 4], 400, seed=0)
    first = draws.weights[:, :4].sum(axis=1)
    assert set(first) == {0, 4, 8}
    assert (draws.weights.sum(axis=1) == 8).all()


def test_the_interval_covers_a_known_mean_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(5), 0
    for trial in range(150):
        sums, counts = block_sums(rng.normal(size=(1, 400)), 10)
        low, high = span(Draws.make([40], 300, trial).means(sums, counts))
        hits += bool(low[0] <= 0 <= high[0])
    assert 0.88 <= hits / 150 <= 0.99


def test_blocks_of_dependent_positions_give_a_wider_interval_than_single_positions():
    rng = np.random.default_rng(2)
    values = np.repeat(rng.normal(size=(1, 40)), 10, axis=1)
    widths = []
    for length in (1, 20):
        sums, counts = block_sums(values, length)
        low, high = span(Draws.make([sums.shape[1]], 500, 0).means(sums, counts))
        widths.append(high[0] - low[0])
    assert widths[1] > 2 * widths[0]


def test_a_replicate_without_a_value_leaves_no_interval():
    low, high = span(np.array([[1.0, np.nan, 2.0], [1.0, 1.0, 1.0]]))
    assert np.isnan(low[0])
    assert np.isnan(high[0])
    assert (low[1], high[1]) == (1, 1)


@given(
    st.lists(st.floats(0.01, 1), min_size=2, max_size=6, unique_by=lambda x: round(x, 3)),
    st.floats(0.005, 1.2),
    st.integers(0, 99),
)
def test_a_curve_is_met_at_its_points_stays_between_them_and_ends_at_its_ends(ratios, wanted, seed):
    ratios = np.sort(ratios)
    losses = np.random.default_rng(seed).uniform(1e-6, 1, size=len(ratios))
    np.testing.assert_allclose(at_bytes(ratios, losses, ratios), losses, rtol=1e-9)
    found = at_bytes(ratios, losses, wanted)[0]
    if ratios[0] <= wanted <= ratios[-1]:
        right = min(max(int(np.searchsorted(ratios, wanted)), 1), len(ratios) - 1)
        around = losses[right - 1 : right + 1]
        assert around.min() * (1 - 1e-9) <= found <= around.max() * (1 + 1e-9)
    elif wanted < ratios[0] * (1 - 1e-6) or wanted > ratios[-1] * (1 + 1e-6):
        assert np.isnan(found)


def test_a_power_law_is_interpolated_exactly():
    ratios = np.array([0.1, 0.4])
    assert at_bytes(ratios, ratios**-2.0, 0.2)[0] == pytest.approx(25)


def test_one_point_is_no_curve():
    assert np.isnan(at_bytes(np.array([0.2]), np.array([1.0]), 0.3)[0])
    assert at_bytes(np.array([0.2]), np.array([1.0]), 0.2)[0] == 1


def test_one_block_of_one_document_has_no_interval():
    """Every replicate draws that block: that they agree is no sign of being sure."""
    alone = Draws.make([1], 100, 0)
    assert np.isnan(alone.means(np.ones((3, 1)), np.ones((3, 1)))).all()
    assert np.isfinite(Draws.make([1, 1], 100, 0).means(np.ones((3, 2)), np.ones((3, 2)))).all()
