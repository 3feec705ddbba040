"""Bytes are counted in full, and tails are observed values."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ghostkv.elimination.attention import TOP_K, ColdRange, cold_range
from ghostkv.elimination.metrics import bound_errors, bytes_ratio, relevant_counts, upper_quantile

VISIBLE = cold_range(np.array([999, 99]), np.zeros(2), 4, 64)


def test_keeping_every_key_costs_the_full_cache_and_its_records():
    kept = VISIBLE.cold[:, None].astype(float)
    assert np.allclose(bytes_ratio(VISIBLE, kept, 0, 64, 64), 1.0)
    extra = bytes_ratio(VISIBLE, kept, 9, 64, 64)[:, 0] - 1.0
    assert np.allclose(extra, VISIBLE.cold * 9 / (VISIBLE.visible * 256))


def test_bytes_of_one_query_by_hand():
    # 1,000 visible keys, 68 exact, 932 cold with 9-byte records, 20 survivors; K and V are 256 bytes a key.
    found = bytes_ratio(VISIBLE, np.array([[20.0], [0.0]]), 9, 64, 64)[0, 0]
    assert np.isclose(found, (932 * 9 + 20 * 256 + 68 * 256) / (1000 * 256))


def test_a_capture_without_values_counts_values_as_wide_as_keys():
    kept = np.array([[20.0], [5.0]])
    assert np.array_equal(bytes_ratio(VISIBLE, kept, 9, 64, 0), bytes_ratio(VISIBLE, kept, 9, 64, 64))


def test_cold_relevant_keys_are_those_between_sinks_and_hot_window():
    needed = np.zeros((1, 2, 1000), np.uint8)
    needed[0, 0, [0, 3, 4, 500, 935, 936, 999]] = TOP_K
    counted = relevant_counts(needed, VISIBLE)
    assert counted["top_k"][0].tolist() == [7, 0]
    assert counted["top_k_cold"][0].tolist() == [3, 0]


@given(st.integers(1, 300), st.integers(0, 10**6))
def test_upper_quantile_is_the_least_value_that_covers_the_share(count, seed):
    values = np.random.default_rng(seed).random((2, count))
    found = upper_quantile(values, 0.99, axis=1)
    assert ((values <= found[:, None]).mean(axis=1) >= 0.99).all()
    below = np.where(values < found[:, None], values, -1).max(axis=1)
    assert ((values <= below[:, None]).mean(axis=1) < 0.99).all()


def test_a_broken_margin_is_counted():
    exact = np.zeros((1, 1, 6), np.float32)
    estimates = np.array([[[0.0, 0.5, -0.5, 2.0, 0.1, 9.0]]], np.float32)
    radius = np.array([1, 1, 1, 1, np.inf, 1], np.float32)
    weight = np.full((1, 1), 0.4, np.float32)
    visible = ColdRange(first=np.array([0]), last=np.array([6]), start=np.array([0]), stop=np.array([5]))
    pairs, violations, squared, margins, *_ = bound_errors(
        exact, estimates, weight, radius, np.zeros((1, 1), np.float32), visible
    )
    assert (pairs, violations) == (5, 3)
    assert np.isclose(squared, 0.25 + 0.25 + 4 + 0.01)
    assert np.isclose(margins, 4 * 0.4)
