"""Attention over packed records: equal to float64, over all shapes, types, lengths and numbers of threads."""

import itertools
from functools import cache

import numpy as np
import pytest

from ghostkv.codecs.field_code import FIELD_BITS, FieldCode, field_bits
from ghostkv.codecs.quantiser import measured_distortion
from ghostkv.codecs.transform_code import TransformCode
from ghostkv.files.errors import ConfigError
from ghostkv.runtime import lanes
from ghostkv.runtime.fused_records import RecordFrames
from ghostkv.runtime.packed_attention import PackedAttention
from ghostkv.runtime.packed_parts import (
    CANDIDATES,
    HEADS,
    SURVIVORS,
    PackedCache,
    PackedRecords,
    PackedRule,
    Place,
)
from ghostkv.runtime.packed_records import packed, packed_frames
from ghostkv.runtime.packed_reference import bfloat16_of, float32_of, reference_step
from ghostkv.runtime.packed_scan import CHUNK

# (KV heads, heads a KV head, head_dim): SmolLM2, Gemma 3, Llama 3.1, groups that fill no four heads, and few coordinates.
SHAPES = (
    (3, 3, 64),
    (1, 4, 256),
    (2, 4, 128),
    (1, 1, 64),
    (2, 2, 96),
    (1, 6, 64),
    (1, 8, 64),
    (1, 5, 80),
    (2, 2, 16),
)
LENGTHS = (1, 5, 68, 69, 83, 84, 85, 300, 511, 700, CHUNK + 67, CHUNK + 68, 2 * CHUNK + 133)


@cache
def fitted(shape, code_bytes):
    """Codecs of a layer, fitted once for all cases of a shape, and what their keys are drawn with."""
    rng = np.random.default_rng(code_bytes)
    kv_heads, _, width = shape
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0] * np.arange(1.0, width + 1) ** -0.5 * 3
    mean = rng.normal(size=width)
    keys, asked = rng.normal(size=(512, width)) @ axes.T + mean, rng.normal(size=(64, width))
    return axes, mean, [FieldCode(code_bytes).fit(keys, asked)] * kv_heads


def drawn(rng, shape, tokens, code_bytes, wide):
    """Query, cache, codecs and records of a layer: keys of a falling spectrum about a mean, as those of models are."""
    kv_heads, group, width = shape
    axes, mean, codecs = fitted(shape, code_bytes)
    keys = (rng.normal(size=(kv_heads, tokens, width)) @ axes.T + mean).astype(np.float32)
    values = (1.0 + rng.normal(size=(kv_heads, tokens, width))).astype(np.float32)
    query = rng.normal(size=(kv_heads * group, width)).astype(np.float32)
    cache = PackedCache(*(one if wide else bfloat16_of(one) for one in (keys, values)))
    records = [codec.encode(one) for codec, one in zip(codecs, float32_of(cache.keys), strict=True)]
    return query, cache, codecs, records


def stepped(query, cache, codecs, records, rule, place, threads):
    codes, rho = packed(records, codecs[0].code_bytes // 4)
    total = float32_of(cache.values)[:, place.start : place.stop].sum(axis=1, dtype=np.float64)
    attention = PackedAttention(packed_frames(RecordFrames.of(codecs)), threads)
    out, counts = attention.step(query, cache, PackedRecords(codes, rho, total), rule, place)
    return out, counts, [attention.survivors(kv).copy() for kv in range(len(codecs))]


def rule_of(query, theta, softcap=0.0, compensate=True):
    return PackedRule(np.full(len(query), theta), query.shape[1] ** -0.5, softcap, compensate)


def all_of(cache, sinks=4, first=0):
    return Place.of(first, cache.keys.shape[1], sinks, 64)


@pytest.mark.parametrize("case", range(208))
def test_survivors_and_output_are_those_of_float64(case):
    rng = np.random.default_rng(case)
    shape, tokens = SHAPES[case % len(SHAPES)], LENGTHS[case % len(LENGTHS)]
    drawn_ = drawn(rng, shape, tokens, int(rng.choice([4, 8, 16, 32])), bool(rng.integers(2)))
    theta = float(rng.choice([-np.inf, np.inf, *(-np.log(tokens) + rng.normal(0, 2, 6))]))
    rule = rule_of(drawn_[0], theta, float(rng.choice([0.0, 15.0])), bool(rng.integers(2)))
    # Rows of a batch that are padded on the left, and room behind the last token.
    first = int(rng.integers(tokens)) if rng.integers(2) else 0
    place = Place.of(first, tokens - int(rng.integers(min(3, tokens - first))), int(rng.integers(6)), 64)
    out, counts, found = stepped(*drawn_, rule, place, int(rng.integers(1, 4)))
    want, survivors = reference_step(*drawn_, rule, place)
    for mine, other in zip(found, survivors, strict=True):
        assert np.array_equal(mine, other)
    assert np.array_equal(counts[:, SURVIVORS], [len(one) for one in survivors])
    assert (counts[:, CANDIDATES] >= counts[:, SURVIVORS]).all()
    assert (counts[:, HEADS:].max(axis=1) <= counts[:, SURVIVORS]).all()
    assert (counts[:, HEADS:].sum(axis=1) >= counts[:, SURVIVORS]).all()
    assert np.linalg.norm(out - want) <= 3e-6 * np.linalg.norm(want)


def test_a_record_that_bounds_nothing_is_always_read():
    query, cache, codecs, records = drawn(np.random.default_rng(1), (2, 4, 128), 600, 16, True)
    for one in records:
        one.rho[:] = 0
    records[1].rho[[3, 4, 77, 535, 536]] = 255
    _, _, found = stepped(query, cache, codecs, records, rule_of(query, np.inf), all_of(cache), 2)
    assert [one.tolist() for one in found] == [[], [4, 77, 535]]


def test_scores_of_any_size_neither_overflow_nor_lose_their_mass():
    query, cache, codecs, records = drawn(np.random.default_rng(2), (1, 4, 64), 1500, 16, True)
    for factor in (1e-20, 30.0, 3000.0):
        rule = rule_of(query, -6.0)
        out, _, _ = stepped(query * np.float32(factor), cache, codecs, records, rule, all_of(cache), 2)
        want, _ = reference_step(query * np.float32(factor), cache, codecs, records, rule, all_of(cache))
        assert np.linalg.norm(out - want) <= 1e-3 * np.linalg.norm(want)


def test_products_of_bytes_are_the_same_without_the_instructions_for_them(monkeypatch):
    """Compiled anew, uncached, for a machine that has no sums of byte products."""
    import numba

    def loop(codes, weights, out):
        lanes.add_block(3, codes, 0, weights, 0, 1, 1, 1, out, 0)

    rng = np.random.default_rng(3)
    codes = rng.integers(0, 256, 3 * 64).astype(np.uint8)
    signed = rng.integers(-127, 128, (1 + 2 + 4, 3, 4)).astype(np.int8)
    fields = []
    for row, width in enumerate(FIELD_BITS):
        bytes_ = codes.reshape(3, 16, 4)[row]
        fields += [(bytes_ >> (8 - width * (field + 1))) & ((1 << width) - 1) for field in range(8 // width)]
    want = np.einsum("fkb,fhb->hk", np.stack(fields).astype(np.int64), signed.astype(np.int64))
    for native in (True, False):
        if not native:
            monkeypatch.setattr(lanes, "_has_byte_products", lambda: False)
        out = np.zeros((3, 16), np.int32)
        numba.njit(loop)(codes, signed.reshape(-1).view(np.int32), out)
        assert np.array_equal(out, want)


def test_fields_fill_whole_rows_of_one_width_and_none_beyond_the_last_coordinate():
    rng = np.random.default_rng(4)
    coordinates = rng.normal(size=(2000, 64)) * np.arange(1.0, 65) ** -0.7
    distortion = measured_distortion(coordinates)
    for code_bytes, widths in itertools.product((4, 8, 16, 32, 64), (FIELD_BITS, (4, 2), (4,))):
        bits = field_bits(distortion, code_bytes, widths)
        assert set(bits.tolist()) <= {0, *widths}
        assert (np.diff(bits) <= 0).all()
        written = np.flatnonzero(bits)
        # All rows are full, or every coordinate has a field.
        assert bits.sum() == 8 * code_bytes or len(written) == 64
        for width in widths[:-1]:
            last = len(written) == 64 and bits[-1] == width
            assert last or np.count_nonzero(bits == width) * width % 32 == 0
    whole = field_bits(distortion[:, :12], 64)
    assert whole.tolist() == [8] * 12


def test_records_of_another_layout_are_refused():
    rng = np.random.default_rng(5)
    codec = TransformCode(8).fit(rng.normal(size=(500, 64)), rng.normal(size=(100, 64)))
    with pytest.raises(ConfigError, match="field_code"):
        packed_frames(RecordFrames.of([codec]))
