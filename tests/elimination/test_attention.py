"""Exact attention: what is visible, what is cold, which keys matter."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.elimination.attention import (
    MASS_95,
    MASS_99,
    TOP_K,
    cap,
    cold_range,
    exact_attention,
    kth_largest,
)


def capture(seed=0, group=3, kv_heads=2, tokens=120, width=8, window=0, softcap=0.0):
    rng = np.random.default_rng(seed)
    positions = np.sort(rng.choice(np.arange(20, tokens), 9, replace=False)).astype(np.int32)
    return LayerCapture(
        layer=0,
        keys=(rng.normal(size=(kv_heads, tokens, width)) * 2).astype(np.float16),
        values=rng.normal(size=(kv_heads, tokens, width)).astype(np.float16),
        queries=rng.normal(size=(kv_heads * group, len(positions), width)).astype(np.float32),
        outputs=None,
        positions=positions,
        scale=width**-0.5,
        window=window,
        softcap=softcap,
    )


def attended(layer, kv_head, sinks=2, hot=5, top_k=7):
    visible = cold_range(layer.positions, layer.first_visible(), sinks, hot)
    return visible, exact_attention(layer, kv_head, layer.keys[kv_head].astype(np.float32), visible, top_k)


def test_mass_is_the_softmax_of_visible_keys_written_out_in_float64():
    for window, softcap in ((0, 0.0), (16, 0.0), (0, 5.0)):
        layer = capture(window=window, softcap=softcap)
        visible, exact = attended(layer, 1)
        for g in range(layer.group):
            for q, position in enumerate(layer.positions):
                first = max(0, position - window + 1) if window else 0
                keys = layer.keys[1, first : position + 1].astype(np.float64)
                score = keys @ layer.queries[layer.group + g, q].astype(np.float64) * layer.scale
                score = softcap * np.tanh(score / softcap) if softcap else score
                mass = np.exp(score - score.max())
                expected = np.zeros(layer.tokens)
                expected[first : position + 1] = mass / mass.sum()
                assert np.allclose(exact.mass[g, q], expected, atol=1e-6)
                assert np.isclose(exact.lse[g, q], np.log(np.exp(score).sum()), atol=1e-4)
                assert np.isneginf(exact.scores[g, q, position + 1 :]).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), top_k=st.integers(1, 40), window=st.sampled_from([0, 10, 30]))
def test_needed_flags_mark_the_fewest_keys(seed, top_k, window):
    layer = capture(seed, window=window)
    visible, exact = attended(layer, 0, top_k=top_k)
    for g in range(layer.group):
        for q in range(len(layer.positions)):
            mass, needed = exact.mass[g, q].astype(np.float64), exact.needed[g, q]
            top = np.flatnonzero(needed & TOP_K)
            assert len(top) == min(top_k, visible.visible[q])
            rest = np.setdiff1d(np.arange(layer.tokens), top)
            assert exact.scores[g, q, top].min() >= exact.scores[g, q, rest].max(initial=-np.inf)
            for share, flag in ((0.95, MASS_95), (0.99, MASS_99)):
                held = np.flatnonzero(needed & flag)
                assert mass[held].sum() >= share - 1e-6
                # Without the least of them the share is missed, so there is no smaller set.
                assert mass[held].sum() - mass[held].min() < share + 1e-6


def test_equal_scores_still_give_exactly_k_relevant_keys():
    layer = capture()
    same = LayerCapture(**{**layer.__dict__, "keys": np.ones_like(layer.keys)})
    _, exact = attended(same, 0, top_k=6)
    assert (np.count_nonzero(exact.needed & TOP_K, axis=-1) == 6).all()


def test_cold_keys_exclude_sinks_hot_window_and_what_a_sliding_window_hides():
    positions = np.array([3, 10, 50, 99])
    whole = cold_range(positions, np.zeros(4), 4, 8)
    assert whole.cold.tolist() == [0, 0, 39, 88]
    assert whole.visible.tolist() == [4, 11, 51, 100]
    sliding = cold_range(positions, np.maximum(positions - 31, 0), 4, 8)
    assert sliding.cold.tolist() == [0, 0, 24, 24]
    assert sliding.start.tolist()[2:] == [19, 68]


@given(st.integers(1, 50), st.integers(0, 10**6))
def test_kth_largest_equals_a_sort(k, seed):
    known = np.round(np.random.default_rng(seed).normal(size=(2, 3, 40)), 1).astype(np.float32)
    last = np.array([40, 17, 1])
    found = kth_largest(known, np.zeros_like(last), last, k)
    for q, stop in enumerate(last):
        ordered = -np.sort(-known[:, q, :stop], axis=-1)
        expected = ordered[:, k - 1] if k <= stop else np.full(2, -np.inf)
        assert np.array_equal(found[:, q], expected)


def test_soft_cap_never_widens_a_gap():
    logits = np.random.default_rng(0).normal(size=1000).astype(np.float32) * 40
    capped = cap(logits.copy(), 30.0)
    assert np.abs(capped).max() <= 30.0
    gaps = np.abs(np.diff(capped)) - np.abs(np.diff(logits))
    assert gaps.max() <= 1e-5
