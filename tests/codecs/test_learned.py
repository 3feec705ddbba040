"""Whatever frame training comes up with, the margin of its codec holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.codecs.learned import Learned
from ghostkv.codecs.transform_code import TransformCode
from ghostkv.files.errors import TableError

WIDTH = 16


def calibration(seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(WIDTH, WIDTH)) * np.linspace(3, 0.1, WIDTH)
    return rng.normal(size=(400, WIDTH)) @ mixing + 2.0, rng.normal(size=(150, WIDTH)) @ mixing.T


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 1.0, 3.0]),
    magnitude=st.sampled_from([1e-3, 1.0, 30.0, 3e3]),
    query_magnitude=st.sampled_from([1e-4, 1.0, 1e4]),
    aimed=st.booleans(),
)
def test_margins_hold_in_any_invertible_frame(seed, spread, magnitude, query_magnitude, aimed):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0] for _ in range(2))
    frame = left @ np.diag(10.0 ** rng.uniform(-spread / 2, spread / 2, WIDTH)) @ right
    codec = Learned(4, frame=frame).fit(*calibration())
    keys = (rng.standard_t(1.5, size=(64, WIDTH)).clip(-20, 20) * magnitude).astype(np.float16)
    decoded = codec.decode(codec.encode(keys))
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


def test_the_query_aware_frame_gives_the_transform_code_back():
    keys, queries = calibration()
    derived = TransformCode(4).fit(keys, queries)
    same = Learned(4, frame=TransformCode(WIDTH).fit(keys, queries).metric_).fit(keys, queries)
    errors = []
    for codec in (derived, same):
        estimate = codec.estimate(codec.project(queries), codec.decode(codec.encode(keys)), 1.0)
        errors.append(np.sqrt(((estimate - queries @ keys.T) ** 2).mean()))
    # The ridge aside, power scaling finds the frame already scaled.
    assert errors[1] == pytest.approx(errors[0], rel=0.02)
    assert same.record_bytes == derived.record_bytes == 5


@pytest.mark.parametrize(
    "frame", [None, np.zeros((WIDTH, WIDTH)), np.full((WIDTH, WIDTH), np.nan), np.eye(3)]
)
def test_a_frame_that_bounds_nothing_is_refused(frame):
    with pytest.raises(TableError, match="codec learned"):
        Learned(4, frame=frame).fit(*calibration())
