"""The nested record: each level refines the same cells, bounds by itself, and survives packing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.codecs import by_name
from ghostkv.codecs.nested import Nested, level_bytes
from ghostkv.files.errors import TableError

WIDTH, LEVELS = 16, (2, 2, 4, 24)


def tensors(seed=0):
    mixing = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)) * np.linspace(3, 0.1, WIDTH)
    rng = np.random.default_rng(seed + 100)
    return rng.normal(size=(600, WIDTH)) @ mixing + 2.0, rng.normal(size=(150, WIDTH)) @ mixing


@pytest.fixture(scope="module")
def codec():
    return Nested.of(LEVELS).fit(*tensors())


def test_levels_are_prefixes_of_one_path(codec):
    keys = tensors(1)[0]
    codes = codec.tree_.codes((keys - codec.mean_) @ codec.encoder_.T)
    records = codec.encode(keys)
    assert [plane.shape[1] for plane in records.planes] == list(LEVELS)
    before = np.zeros(WIDTH, int)
    for level in range(len(LEVELS)):
        depth = codec.depths(level)
        assert (depth >= before).all()
        assert depth.sum() == 8 * sum(LEVELS[: level + 1])
        # A level alone gives the same coordinates as the first bits of the whole path.
        cut = (codes >> (16 - depth)) << (16 - depth)
        assert np.array_equal(
            codec.decode(records, level).coordinates, codec.tree_.rebuild(cut.astype(np.uint16), depth)
        )
        before = depth
    assert (before == 16).all()


def test_each_level_tells_more_and_the_last_is_as_good_as_float16(codec):
    keys, queries = tensors(1)
    projected, records = codec.project(queries), codec.encode(keys)
    exact = queries @ keys.T
    errors = [
        np.sqrt(((codec.estimate(projected, codec.decode(records, n), 1.0) - exact) ** 2).mean())
        for n in range(4)
    ]
    assert all(later < 0.75 * earlier for earlier, later in zip(errors, errors[1:], strict=False))
    rounded = np.sqrt(((queries @ keys.astype(np.float16).astype(np.float64).T - exact) ** 2).mean())
    assert errors[-1] < 4 * rounded


@pytest.mark.parametrize("code_bytes", [2, 4, 8])
def test_a_prefix_is_as_good_as_a_transform_code_of_that_size(codec, code_bytes):
    keys, queries = tensors(2)
    level = int(np.searchsorted(np.cumsum(LEVELS), code_bytes))
    other = by_name.make("transform_code", code_bytes).fit(*tensors())
    errors = []
    for one, decoded in (
        (codec, codec.decode(codec.encode(keys), level)),
        (other, other.decode(other.encode(keys))),
    ):
        errors.append(((one.estimate(one.project(queries), decoded, 1.0) - queries @ keys.T) ** 2).mean())
    assert errors[0] < 1.15 * errors[1]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    magnitude=st.sampled_from([1e-7, 1e-3, 1.0, 30.0, 3e3]),
    kind=st.sampled_from(["gaussian", "rank_one", "duplicates", "one_hot"]),
)
def test_every_level_bounds_the_error_on_keys_unlike_the_calibration(codec, seed, magnitude, kind):
    rng = np.random.default_rng(seed)
    keys = {
        "gaussian": lambda: rng.normal(size=(40, WIDTH)),
        "rank_one": lambda: np.outer(rng.normal(size=40), rng.normal(size=WIDTH)),
        "duplicates": lambda: np.repeat(rng.normal(size=(1, WIDTH)), 40, axis=0),
        "one_hot": lambda: np.eye(WIDTH)[rng.integers(0, WIDTH, 40)],
    }[kind]() * magnitude
    keys = keys.astype(np.float16)
    queries = rng.normal(size=(10, WIDTH)).astype(np.float32)
    projected, records = codec.project(queries), codec.encode(keys)
    exact = queries.astype(np.float64) @ keys.astype(np.float64).T
    for level in range(len(LEVELS)):
        decoded = codec.decode(records, level)
        margin = codec.margins(projected, decoded, 1.0)
        assert (np.abs(codec.estimate(projected, decoded, 1.0) - exact) <= margin).all()


def wide_tensors(width, seed):
    """Long keys about a mean, and queries that lie along few directions, as those of wide heads do."""
    of_all, rng = np.random.default_rng(width), np.random.default_rng(seed)
    turn, mean = np.linalg.qr(of_all.normal(size=(width, width)))[0], of_all.normal(size=width) * 3
    spectrum = np.geomspace(1.0, 1e-3, width)
    keys = 7.0 * rng.normal(size=(600, width)) * np.linspace(1.0, 0.3, width) + mean
    queries = (rng.normal(size=(96, width)) * spectrum * 8) @ turn
    return keys.astype(np.float16), queries.astype(np.float32)


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("seed", range(3))
def test_margins_of_wide_heads_hold_in_any_order_of_addition_and_are_hardly_rounding(width, seed):
    (keys, queries), scale = wide_tensors(width, seed), width**-0.5
    codec = Nested.of(level_bytes([1.0, 1.0, 1.0, 1.0, 2.0, 2.0], width)).fit(*wide_tensors(width, 10 + seed))
    products = (queries * np.float32(scale))[:, None] * keys.astype(np.float32)
    evaluations = [
        np.cumsum(each, axis=2, dtype=np.float32)[..., -1] for each in (products, products[..., ::-1])
    ]
    evaluations.append((queries * np.float32(scale)) @ keys.astype(np.float32).T)
    projected, records, found = codec.project(queries), codec.encode(keys), []
    for level in range(len(codec.levels)):
        decoded = codec.decode(records, level)
        margins, estimates = (
            codec.margins(projected, decoded, scale),
            codec.estimate(projected, decoded, scale),
        )
        errors = [np.abs(estimates - exact.astype(float)) for exact in evaluations]
        for error in errors:
            assert (error <= margins).all()
        found.append(np.median(margins) / np.sqrt((errors[0] ** 2).mean()))
    # Cauchy and Schwarz cost sqrt(width) standard deviations. With the longest query of a frame in the place of each, rounding
    # made it 2.5 times as many at 256, and 1.1 times at 128, once six bits a coordinate are read.
    assert found[4] < width**0.5


def test_keys_without_spread_still_fit_and_bound():
    keys, queries = np.ones((50, WIDTH)), tensors()[1]
    codec = Nested.of(LEVELS).fit(keys, queries)
    decoded = codec.decode(codec.encode(keys))
    assert np.isfinite(decoded.radius).all()
    error = np.abs(codec.estimate(codec.project(queries), decoded, 1.0) - queries @ keys.T)
    assert (error <= codec.margins(codec.project(queries), decoded, 1.0)).all()


def test_same_calibration_gives_the_same_bytes(codec):
    keys = tensors(1)[0]
    again = Nested.of(LEVELS).fit(*tensors()).encode(keys)
    for mine, theirs in zip(codec.encode(keys).planes, again.planes, strict=True):
        assert np.array_equal(mine, theirs)


def test_what_is_kept_of_it_is_small_and_gives_the_same_codec(codec):
    arrays = codec.arrays()
    # Of every coordinate a float32 row of the encoder, 129 borders of 2 bytes and 255 places of one.
    assert sum(array.nbytes for array in arrays.values()) < WIDTH * (4 * WIDTH + 129 * 2 + 255 + 6 * 8) + 500
    again, keys = Nested.of(LEVELS).load(arrays), tensors(1)[0]
    for name in ("mean_", "encoder_", "decoder_", "metric_", "order_", "rho_top_"):
        assert np.array_equal(getattr(again, name), getattr(codec, name)), name
    ours, theirs = codec.encode(keys), again.encode(keys)
    assert np.array_equal(ours.rho, theirs.rho)
    for level in range(len(LEVELS)):
        assert np.array_equal(ours.planes[level], theirs.planes[level])
        one, other = codec.decode(ours, level), again.decode(theirs, level)
        assert np.array_equal(one.coordinates, other.coordinates)
        assert np.array_equal(one.radius, other.radius)


def test_encoder_and_decoder_are_inverse(codec):
    for one, other in ((codec.encoder_, codec.decoder_), (codec.decoder_, codec.encoder_)):
        assert np.abs(one @ other - np.eye(WIDTH)).max() < 1e-12


def test_a_cell_stands_for_the_mean_of_its_keys(codec):
    keys = tensors()[0]
    coordinates = (keys - codec.mean_) @ codec.encoder_.T
    codes = codec.tree_.codes(coordinates)
    for depth in range(5):
        cells = codes >> (16 - depth) if depth else np.zeros_like(codes)
        rebuilt = codec.tree_.rebuild(codes, np.full(WIDTH, depth))
        for i in range(WIDTH):
            span = np.ptp(coordinates[:, i])
            for cell in np.unique(cells[:, i]):
                inside = cells[:, i] == cell
                assert abs(rebuilt[inside, i][0] - coordinates[inside, i].mean()) < 2 * span / 256


def test_records_of_other_levels_and_too_many_bits_are_refused(codec):
    other = Nested.of((4, 4)).fit(*tensors())
    with pytest.raises(TableError, match=r"levels of \(4, 4\) bytes"):
        codec.decode(other.encode(tensors()[0]))
    with pytest.raises(ValueError, match="more than 16 bits"):
        Nested.of((8, 25)).fit(*tensors())
