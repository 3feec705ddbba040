"""Bits are spent where they help, and packing loses none."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.codecs.quantiser import MAX_BITS, UniformQuantiser, allocate_bits


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, MAX_BITS), min_size=1, max_size=24), st.integers(0, 3), st.integers(0, 2**32 - 1)
)
def test_unpack_inverts_pack(bits, spare, seed):
    bits = np.array(bits)
    code_bytes = max(-(-int(bits.sum()) // 8), 1) + spare
    codes = np.random.default_rng(seed).integers(0, 256, (7, len(bits))).astype(np.uint8) & ((1 << bits) - 1)
    codes = codes.astype(np.uint8)
    quantiser = UniformQuantiser(bits, np.ones(len(bits)), np.zeros(len(bits)))
    packed = quantiser.pack(codes, code_bytes)
    assert packed.shape == (7, code_bytes)
    assert np.array_equal(quantiser.unpack(packed), codes)


def test_bits_sum_to_the_budget_and_follow_the_spread():
    coordinates = np.random.default_rng(0).normal(size=(3000, 12)) * 2.0 ** -np.arange(12)
    bits = allocate_bits(coordinates, 24)
    assert bits.sum() == 24
    assert (np.diff(bits) <= 0).all()
    # Reverse water-filling: halving the spread is worth one bit.
    written = bits[bits > 0]
    assert np.ptp(written + np.arange(len(written))) <= 2


def test_a_budget_beyond_all_coordinates_is_cut():
    coordinates = np.random.default_rng(0).normal(size=(500, 3))
    assert allocate_bits(coordinates, 1000).tolist() == [MAX_BITS] * 3


def test_fitted_steps_beat_the_gaussian_table_on_uniform_data():
    coordinates = np.random.default_rng(0).uniform(-1, 1, (4000, 1))
    fitted = UniformQuantiser.fit(coordinates, np.array([3]))
    rebuilt = fitted.dequantise(fitted.quantise(coordinates))
    # Eight even cells over [-1, 1] have step 1/4 and squared error step^2 / 12.
    assert ((coordinates - rebuilt) ** 2).mean() < 1.1 * 0.25**2 / 12


def test_constant_coordinates_are_rebuilt_exactly_enough():
    coordinates = np.full((100, 2), 3.5)
    fitted = UniformQuantiser.fit(coordinates, np.array([1, 4]))
    assert np.allclose(fitted.dequantise(fitted.quantise(coordinates)), 3.5, atol=1e-6)
