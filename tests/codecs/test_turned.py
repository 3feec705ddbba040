"""Codecs of turned keys: sound anywhere, better than the scalar code where keys turn, and records know where they stand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.codecs import by_name
from ghostkv.codecs.turned_code import TurnedCode
from ghostkv.codecs.vector_code import VectorCode, water_level
from ghostkv.files import blocks
from ghostkv.files.errors import TableError
from tests.codecs.test_rotation import TOKENS, WIDTH, rotary, turning

QUERIES = np.random.default_rng(9).normal(size=(150, WIDTH)) * np.linspace(2, 0.3, WIDTH)
KINDS = [(VectorCode, 1), (VectorCode, 2), (VectorCode, 4), (TurnedCode, 4)]


def fitted(kind, size):
    _, keys, positions = turning()
    return kind(size).fit(keys, QUERIES, positions)


@pytest.fixture(scope="module")
def codecs():
    return {(kind, size): fitted(kind, size) for kind, size in KINDS}


def shifted(seed):
    """Keys with the mean of the calibration text and other noise."""
    before, keys, positions = turning()
    rng = np.random.default_rng(seed)
    fresh = before.mean(axis=0) + rng.normal(size=(TOKENS, WIDTH))
    return rotary(fresh, positions[:TOKENS]).astype(np.float16)


def rms(codec, keys):
    estimates = codec.estimate(codec.project(QUERIES), codec.decode(codec.encode(keys)), 1.0)
    return np.sqrt(((estimates - QUERIES @ keys.astype(float).T) ** 2).mean())


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_it_loses_less_than_the_scalar_code_of_the_same_bytes(codecs, kind, size):
    _, keys, positions = turning()
    scalar = by_name.make("transform_code", size).fit(keys, QUERIES, positions)
    fresh = shifted(5)
    assert rms(codecs[kind, size], fresh) < 0.85 * rms(scalar, fresh)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    of=st.sampled_from(KINDS),
    magnitude=st.sampled_from([1e-3, 1.0, 30.0, 3e3]),
    query_magnitude=st.sampled_from([1e-4, 1.0, 1e4]),
    first=st.sampled_from([0, 7, 4096, 10**6]),
    aimed=st.booleans(),
)
def test_margins_hold_on_any_keys_at_any_position(codecs, seed, of, magnitude, query_magnitude, first, aimed):
    rng, codec = np.random.default_rng(seed), codecs[of]
    keys = (rng.standard_t(1.5, size=(64, WIDTH)).clip(-20, 20) * magnitude).astype(np.float16)
    decoded = codec.decode(codec.encode(keys, first))
    queries = rng.normal(size=(20, WIDTH)) * query_magnitude
    if aimed:
        residual = keys[:20].astype(float) - (codec.mean_ + decoded.coordinates[:20] @ codec.decoder_.T)
        queries = residual @ codec.metric_.T @ codec.metric_
    queries = queries.astype(np.float32)
    exact = (queries * np.float32(0.25)) @ keys.astype(np.float32).T
    projected = codec.project(queries)
    gap = np.abs(exact.astype(float) - codec.estimate(projected, decoded, 0.25))
    margin = codec.margins(projected, decoded, 0.25)
    assert (gap[np.isfinite(margin)] <= margin[np.isfinite(margin)]).all()


def test_most_keys_like_the_calibration_have_a_bound(codecs):
    for codec in codecs.values():
        assert (codec.encode(shifted(6)).rho < 255).mean() > 0.99


@pytest.mark.parametrize("of", KINDS)
def test_parts_of_a_text_are_written_and_read_as_the_whole(codecs, monkeypatch, of):
    codec, keys = codecs[of], shifted(7)
    whole = codec.encode(keys)
    later = codec.encode(keys[300:], 300)
    assert np.array_equal(whole.code[300:], later.code)
    assert np.array_equal(whole.rho[300:], later.rho)
    read = codec.decode(whole).coordinates
    for part in (whole[300:], later):
        np.testing.assert_allclose(codec.decode(part).coordinates, read[300:], atol=1e-5)
    monkeypatch.setattr(blocks, "ROWS", 100)
    again = codec.encode(keys)
    assert np.array_equal(whole.code, again.code)
    np.testing.assert_allclose(codec.decode(again).coordinates, read, atol=1e-5)
    # Read at another position, a record says another key.
    assert np.abs(codec.decode(codec.encode(keys[300:])).coordinates - read[300:]).max() > 0.1


@pytest.mark.parametrize("of", KINDS)
def test_the_same_calibration_gives_the_same_bytes_and_what_is_stored_the_same_codec(codecs, of):
    keys, (kind, size) = shifted(8), of
    records = codecs[of].encode(keys)
    for other in (fitted(kind, size), kind(size).load(codecs[of].arrays())):
        again = other.encode(keys)
        assert np.array_equal(records.code, again.code)
        assert np.array_equal(records.rho, again.rho)
        assert np.array_equal(other.decode(again).coordinates, codecs[of].decode(records).coordinates)


def test_constant_bytes_are_two_for_each_number_that_estimates_read(codecs):
    _, keys, positions = turning()
    scalar = by_name.make("transform_code", 4).fit(keys, QUERIES, positions)
    dims = len(scalar.quantiser_.bits)
    # Way out of the frame and mean; steps and centres.
    assert scalar.constant_bytes == 2 * (WIDTH + WIDTH * dims + 2 * dims)
    for (kind, size), codec in codecs.items():
        written = codec.into_.shape[0]
        coder = size * 256 * written if kind is VectorCode else 2 * written
        # Frequencies too.
        assert codec.constant_bytes == 2 * (WIDTH + WIDTH * written + WIDTH // 2 + coder)


def test_records_of_another_size_are_refused(codecs):
    with pytest.raises(TableError, match="2 code bytes, the codec 4"):
        codecs[VectorCode, 4].decode(codecs[VectorCode, 2].encode(shifted(1)))


@pytest.mark.parametrize("kind", [VectorCode, TurnedCode])
def test_keys_without_spread_still_fit_and_bound(kind):
    keys = np.ones((300, WIDTH))
    codec = kind(2).fit(keys, QUERIES)
    decoded = codec.decode(codec.encode(keys))
    assert np.isfinite(decoded.radius).all()
    error = np.abs(codec.estimate(codec.project(QUERIES), decoded, 1.0) - QUERIES @ keys.T)
    assert (error <= codec.margins(codec.project(QUERIES), decoded, 1.0)).all()


@pytest.mark.parametrize("bits", [1, 8, 40])
def test_the_water_level_takes_the_bits_that_bring_what_lies_above_down_to_it(bits):
    variance = 2.0 ** -np.arange(10.0)
    level = water_level(variance, bits)
    assert np.log2(np.maximum(variance / level, 1.0)).sum() / 2 == pytest.approx(bits)
