"""Margins hold for every key and query, whatever the codec was fitted on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.codecs import by_name
from ghostkv.files.errors import ConfigError, TableError

WIDTH = 16
NAMES = by_name.names()


def fitted(name, code_bytes=4, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(WIDTH, WIDTH)) * np.linspace(3, 0.1, WIDTH)
    keys = (rng.normal(size=(400, WIDTH)) @ mixing + 2.0) * scale
    queries = rng.normal(size=(150, WIDTH)) @ mixing.T
    return by_name.make(name, code_bytes, seed).fit(keys, queries), keys, queries


def worst_excess(codec, keys, queries, scale=0.25):
    """Largest |score - estimate| - margin, with score and estimate as the lab computes them, in float32."""
    keys = np.asarray(keys, np.float16)
    queries = np.asarray(queries, np.float32)
    exact = (queries * np.float32(scale)) @ keys.astype(np.float32).T
    decoded, projected = codec.decode(codec.encode(keys)), codec.project(queries)
    estimate = codec.estimate(projected, decoded, scale)
    margin = codec.margins(projected, decoded, scale)
    with np.errstate(invalid="ignore"):
        excess = np.abs(exact.astype(np.float64) - estimate) - margin
    return np.nanmax(np.where(np.isinf(margin), -np.inf, excess))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    magnitude=st.sampled_from([1e-6, 1e-3, 1.0, 30.0, 3e3]),
    query_magnitude=st.sampled_from([1e-20, 1e-4, 1.0, 1e4]),
    kind=st.sampled_from(["gaussian", "heavy", "rank_one", "duplicates", "one_hot", "denormal"]),
)
def test_margin_bounds_the_error_on_keys_unlike_the_calibration(name, seed, magnitude, query_magnitude, kind):
    rng = np.random.default_rng(seed)
    keys = {
        "gaussian": lambda: rng.normal(size=(64, WIDTH)),
        "heavy": lambda: rng.standard_t(1.2, size=(64, WIDTH)).clip(-20, 20),
        "rank_one": lambda: np.outer(rng.normal(size=64), rng.normal(size=WIDTH)),
        "duplicates": lambda: np.repeat(rng.normal(size=(1, WIDTH)), 64, axis=0),
        "one_hot": lambda: np.eye(WIDTH)[rng.integers(0, WIDTH, 64)],
        "denormal": lambda: rng.normal(size=(64, WIDTH)) * 1e-7,
    }[kind]() * magnitude
    queries = rng.normal(size=(20, WIDTH)) * query_magnitude
    codec, *_ = fitted(name)
    assert worst_excess(codec, keys, queries) <= 0


@pytest.mark.parametrize("name", NAMES)
def test_margin_bounds_queries_aimed_at_the_residual(name):
    # The worst query points along the residual in the codec's own frame: Cauchy-Schwarz is then nearly tight.
    codec, keys, _ = fitted(name)
    keys = keys[:100].astype(np.float16).astype(np.float64)
    decoded = codec.decode(codec.encode(keys))
    residual = keys - (codec.mean_ + decoded.coordinates @ codec.decoder_.T)
    aimed = residual @ codec.metric_.T @ codec.metric_
    assert worst_excess(codec, keys, aimed) <= 0
    exact = np.einsum("qd,qd->q", aimed, residual)
    margin = codec.project(aimed).norm.astype(np.float64) * decoded.radius
    # Not vacuous: one step of rho is what an aimed query leaves of the margin.
    assert np.median(exact / margin) > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_calibration_on_another_layer_costs_margin_and_not_soundness(name):
    right, keys, queries = fitted(name, seed=1)
    wrong, *_ = fitted(name, seed=2, scale=0.01)
    assert worst_excess(wrong, keys, queries) <= 0
    assert np.isinf(wrong.decode(wrong.encode(keys)).radius).any()
    assert np.isfinite(right.decode(right.encode(keys)).radius).all()


def test_error_shrinks_with_bytes_and_transform_code_is_best_at_equal_bytes():
    errors = {}
    for name in NAMES:
        for code_bytes in (2, 4, 8):
            codec, keys, queries = fitted(name, code_bytes)
            decoded, projected = codec.decode(codec.encode(keys)), codec.project(queries)
            error = codec.estimate(projected, decoded, 1.0) - queries @ keys.T
            errors[name, code_bytes] = np.sqrt((error**2).mean())
    for name in set(NAMES) - {"gaussian"}:
        assert errors[name, 8] < errors[name, 4] < errors[name, 2]
    for code_bytes in (2, 4, 8):
        # Codes of turned keys know positions, which random keys do not have.
        own = {"transform_code", "turned_code", "vector_code"}
        others = [errors[name, code_bytes] for name in NAMES if name not in own]
        assert errors["transform_code", code_bytes] < min(others)


@pytest.mark.parametrize("name", NAMES)
def test_same_calibration_gives_the_same_bytes(name):
    one, keys, _ = fitted(name)
    other, *_ = fitted(name)
    assert np.array_equal(one.encode(keys).code, other.encode(keys).code)
    assert one.record_bytes == one.encode(keys).code.shape[1] + 1


@pytest.mark.parametrize("name", NAMES)
def test_a_codec_survives_its_arrays(name):
    codec, keys, queries = fitted(name)
    again = by_name.make(name, codec.code_bytes).load(codec.arrays())
    records = codec.encode(keys)
    for field in ("code", "rho"):
        assert np.array_equal(getattr(records, field), getattr(again.encode(keys), field))
    assert np.array_equal(codec.decode(records).radius, again.decode(records).radius)
    assert np.array_equal(codec.project(queries).norm, again.project(queries).norm)


def test_unknown_codec_names_the_known_ones():
    with pytest.raises(ConfigError, match="no codec 'wavelet'.*transform_code"):
        by_name.make("wavelet", 8)


def test_records_of_another_size_are_refused():
    four, keys, _ = fitted("pca", 4)
    eight, *_ = fitted("pca", 8)
    with pytest.raises(TableError, match="8 code bytes, the codec 4"):
        four.decode(eight.encode(keys))
