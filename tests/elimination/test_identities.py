"""Two identities of top-k attention (arXiv 2512.07647), which hold for any set of kept keys, of what the lab measures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.elimination.attention import TOP_K, cold_range, exact_attention, softmax


def attention(seed: int, tokens: int, spread: float, top_k: int):
    """Exact attention of one KV head with a group of two, and its values; all in float64 but the scores."""
    rng = np.random.default_rng(seed)
    capture = LayerCapture(
        layer=0,
        keys=(spread * rng.normal(size=(1, tokens, 8))).astype(np.float16),
        values=rng.normal(size=(1, tokens, 8)).astype(np.float16),
        queries=rng.normal(size=(2, 3, 8)).astype(np.float32),
        outputs=np.zeros((2, 3, 8), np.float32),
        positions=np.array([tokens - 9, tokens - 3, tokens - 1], np.int32),
        scale=8**-0.5,
    )
    visible = cold_range(capture.positions, capture.first_visible(), 0, 0)
    exact = exact_attention(capture, 0, capture.keys[0].astype(np.float32), visible, top_k)
    return exact, capture.values[0].astype(np.float64)


CASES = {
    "seed": st.integers(0, 10_000),
    "tokens": st.integers(20, 200),
    "spread": st.floats(0.1, 6),
    "top_k": st.integers(1, 11),
}


@given(**CASES)
@settings(max_examples=100, deadline=None)
def test_the_dropped_mass_is_the_total_variation_and_one_less_exp_of_minus_the_divergence(
    seed, tokens, spread, top_k
):
    exact, _ = attention(seed, tokens, spread, top_k)
    full = softmax(exact.scores.astype(np.float64))[0]
    kept = (exact.needed & TOP_K) > 0
    truncated = softmax(np.where(kept, exact.scores.astype(np.float64), -np.inf))[0]
    variation = np.abs(full - truncated).sum(axis=-1) / 2
    logs = np.log(np.where(kept, truncated, 1.0)) - np.log(np.where(kept, full, 1.0))
    divergence = (truncated * logs).sum(axis=-1)
    dropped = np.where(kept, 0.0, exact.mass.astype(np.float64)).sum(axis=-1)
    np.testing.assert_allclose(dropped, variation, atol=2e-6)
    np.testing.assert_allclose(dropped, 1 - np.exp(-divergence), atol=2e-6)


@given(**CASES)
@settings(max_examples=100, deadline=None)
def test_the_output_error_is_the_dropped_mass_times_the_distance_of_tail_and_head_means(
    seed, tokens, spread, top_k
):
    exact, values = attention(seed, tokens, spread, top_k)
    mass = exact.mass.astype(np.float64)
    mass /= mass.sum(axis=-1, keepdims=True)
    kept = (exact.needed & TOP_K) > 0
    head, tail = np.where(kept, mass, 0.0), np.where(kept, 0.0, mass)
    dropped = tail.sum(axis=-1)
    error = np.linalg.norm(mass @ values - head @ values / head.sum(axis=-1)[..., None], axis=-1)
    mean = tail @ values / np.maximum(dropped, 1e-300)[..., None]
    distance = np.linalg.norm(mean - head @ values / head.sum(axis=-1)[..., None], axis=-1)
    np.testing.assert_allclose(error, dropped * distance, rtol=1e-9, atol=1e-12)


def test_an_identity_fails_where_the_tail_is_not_what_was_dropped():
    exact, values = attention(0, 60, 2.0, 4)
    kept = (exact.needed & TOP_K) > 0
    head = np.where(kept, exact.mass, 0)
    error = np.linalg.norm(exact.mass @ values - head @ values, axis=-1)  # not normalised again
    dropped = np.where(kept, 0, exact.mass).sum(axis=-1)
    distance = np.linalg.norm((exact.mass - head) @ values / dropped[..., None] - head @ values, axis=-1)
    assert np.abs(error - dropped * distance).max() > 1e-2
    assert dropped.min() == pytest.approx(1 - head.sum(axis=-1).max(), abs=1e-6)
