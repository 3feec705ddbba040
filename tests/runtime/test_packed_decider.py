"""Packed records in the model's seat: written as the codec writes them, read as float64 says, whatever happens to the cache."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch  # noqa: E402
from transformers.cache_utils import DynamicLayer  # noqa: E402

from ghostkv.codecs.field_code import FieldCode  # noqa: E402
from ghostkv.codecs.transform_code import TransformCode  # noqa: E402
from ghostkv.files.errors import ModelError  # noqa: E402
from ghostkv.runtime.deciders import Call  # noqa: E402
from ghostkv.runtime.fused_records import RecordFrames, write_packed  # noqa: E402
from ghostkv.runtime.ghost_cache import GhostLayer  # noqa: E402
from ghostkv.runtime.ghost_decider import GhostDecider, GhostFrames, PackedDecider, ghost_decider  # noqa: E402
from ghostkv.runtime.packed_attention import StepRooms  # noqa: E402
from ghostkv.runtime.packed_parts import PackedCache, PackedRule, Place  # noqa: E402
from ghostkv.runtime.packed_records import field_places, packed  # noqa: E402
from ghostkv.runtime.packed_reference import bfloat16_of, float32_of, reference_step  # noqa: E402
from ghostkv.runtime.stored import stored  # noqa: E402
from ghostkv.runtime.traffic import COLUMNS, made  # noqa: E402

KV_HEADS, GROUP, WIDTH, TOKENS = 2, 3, 32, 150


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0] * np.arange(1.0, WIDTH + 1) ** -0.6 * 3
    keys = (rng.normal(size=(2, KV_HEADS, TOKENS, WIDTH)) @ axes.T + rng.normal(size=WIDTH)).astype(
        np.float32
    )
    values = (1 + rng.normal(size=(2, KV_HEADS, TOKENS, WIDTH))).astype(np.float32)
    queries = rng.normal(size=(2, KV_HEADS * GROUP, TOKENS, WIDTH)).astype(np.float32)
    codecs = [
        FieldCode(8).fit(keys[:, kv].reshape(-1, WIDTH), rng.normal(size=(64, WIDTH)))
        for kv in range(KV_HEADS)
    ]
    return keys, values, queries, codecs


def call_of(drawn, first, start, stop, keys=None, values=None):
    """The queries start..stop over the tokens so far."""
    keys = drawn[0] if keys is None else keys
    values = drawn[1] if values is None else values
    query = np.ascontiguousarray(drawn[2][: len(first), :, start:stop])
    return Call(
        query, keys[: len(first), :, :stop], values[: len(first), :, :stop], np.asarray(first), start, WIDTH**-0.5, 0.0, 2, 8, True, 5
    )  # fmt: skip


def decider_of(codecs, theta=-5.0, per_key=False, **options):
    frames = GhostFrames.of(codecs)
    options = {"compensate": True, "per_key": per_key, "shared": True, "rooms": StepRooms()} | options
    return ghost_decider(frames, np.full(KV_HEADS * GROUP, theta, np.float32), **options)


def wanted(drawn, first, start, stop, theta, per_key, cache):
    """Outputs and survivors of each query, by the reference."""
    out, counts = np.zeros((len(first), stop - start, KV_HEADS * GROUP, WIDTH)), []
    for b, begin in enumerate(first):
        keys, values = (float32_of(one[b]) for one in cache)
        records = [codec.encode(keys[kv]) for kv, codec in enumerate(drawn[3])]
        for t in range(max(begin, start), stop):
            least = theta - np.log(t + 1 - begin) if per_key else theta
            rule = PackedRule(np.full(KV_HEADS * GROUP, least), WIDTH**-0.5, 0.0, True)
            place = Place.of(begin, t + 1, 2, 8)
            some = PackedCache(*(one[b] for one in cache))
            out[b, t - start], found = reference_step(drawn[2][b, :, t], some, drawn[3], records, rule, place)
            counts.append([len(one) for one in found])
    return out, np.array(counts)


def test_records_are_the_codecs_own(drawn):
    keys, _, _, codecs = drawn
    frames = RecordFrames.of(codecs)
    codes, rho = np.zeros((2, KV_HEADS, 10, 128), np.uint8), np.zeros((2, KV_HEADS, 160), np.uint8)
    for held in (keys, bfloat16_of(keys)):
        # In pieces, as tokens come.
        for start, stop in ((0, 37), (37, 38), (38, TOKENS)):
            write_packed(held, start, stop, frames, field_places(frames), codes, rho)
        for b in range(2):
            records = [codec.encode(float32_of(held)[b, kv]) for kv, codec in enumerate(codecs)]
            want, steps = packed(records, 2)
            assert np.array_equal(codes[b], want)
            # The last step of a residual may round the other way.
            assert np.abs(rho[b, :, :TOKENS].astype(int) - steps[:, :TOKENS]).max() <= 1


@pytest.mark.parametrize("per_key", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("first", [(0,), (0, 40)])
def test_every_query_of_a_batch_reads_what_float64_says(drawn, first, narrow, per_key):
    theta = 0.5 if per_key else -4.0
    cache = [bfloat16_of(one) if narrow else one for one in drawn[:2]]
    decider = decider_of(drawn[3], theta, per_key)
    assert isinstance(decider, PackedDecider)
    state, done = decider.start(), 0
    for stop in (60, 61, 62, TOKENS):
        out, rows = decider.attend(state, call_of(drawn, first, done, stop, *cache))
        want, counts = wanted(drawn, first, done, stop, theta, per_key, cache)
        assert np.linalg.norm(out - want) <= 1e-5 * np.linalg.norm(want)
        rows = made(rows)
        assert rows[:, COLUMNS.index("united")].sum() == counts.sum()
        own = rows[:, COLUMNS.index("survivors")].sum()
        assert counts.sum() <= own <= GROUP * counts.sum()
        done = stop


def test_what_is_cropped_and_chosen_is_forgotten_and_kept(drawn):
    decider = decider_of(drawn[3])
    state = decider.start()
    decider.attend(state, call_of(drawn, (0, 30), 0, TOKENS))
    state.truncate(100)
    state.select(np.array([1, 0]))
    turned = [one[::-1] for one in drawn[:3]]
    call = call_of((*turned, None), (30, 0), 100, TOKENS, turned[0], turned[1])
    fresh = decider.attend(decider.start(), call)
    for one, other in zip(decider.attend(state, call), fresh, strict=True):
        assert np.array_equal(made(one), made(other), equal_nan=True)


def test_other_codecs_and_heads_that_do_not_share_are_read_decoded(drawn):
    rng = np.random.default_rng(1)
    streams = [TransformCode(8).fit(drawn[0][0, kv], rng.normal(size=(64, WIDTH))) for kv in range(KV_HEADS)]
    assert type(decider_of(streams)) is GhostDecider
    assert type(decider_of(drawn[3], shared=False)) is GhostDecider
    odd = [FieldCode(4).fit(drawn[0][0, kv, :, :20], rng.normal(size=(64, 20))) for kv in range(KV_HEADS)]
    assert type(decider_of(odd)) is GhostDecider


def test_values_of_an_odd_width_are_refused(drawn):
    call, decider = call_of(drawn, (0,), 0, 60, values=drawn[1][..., :20]), decider_of(drawn[3])
    with pytest.raises(ModelError, match="layer 5: values have 20 numbers"):
        decider.attend(decider.start(), call)


def test_a_key_that_is_no_number_is_refused_in_either_type(drawn):
    for narrow in (False, True):
        keys = drawn[0].copy()
        keys[0, 1, 33, 4] = np.inf
        # Rounding to bfloat16 keeps infinity.
        keys = bfloat16_of(keys) if narrow else keys
        with pytest.raises(ModelError, match="layer 5, KV head 1: the key of token 33"):
            decider_of(drawn[3]).attend(decider_of(drawn[3]).start(), call_of(drawn, (0,), 0, 60, keys))


@pytest.mark.parametrize("heads", [1, 2])
def test_a_cache_that_grows_in_place_holds_what_one_that_is_copied_holds(heads):
    rng, one, other = np.random.default_rng(heads), DynamicLayer(), GhostLayer()

    def drawn_(batch, tokens):
        return [
            torch.from_numpy(rng.normal(size=(batch, heads, tokens, 4)).astype(np.float32)) for _ in range(2)
        ]

    def alike(batch):
        for name in ("keys", "values"):
            assert torch.equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).shape[0] == batch

    batch = 2
    for step in range(60):
        new = drawn_(batch, int(rng.integers(1, 30)))
        with torch.inference_mode(bool(rng.integers(2))):
            for layer in (one, other):
                layer.update(*(each.clone() for each in new))
        alike(batch)
        action = rng.integers(6)
        if action == 0:
            half = one.get_seq_length() // 2
            for layer in (one, other):
                layer.crop(-half)
        elif action == 1:
            for layer in (one, other):
                layer.reorder_cache(torch.tensor([batch - 1, *range(batch - 1)]))
        elif action == 2 and step == 30:
            for layer in (one, other):
                layer.batch_select_indices(torch.tensor([0]))
            batch = 1
        alike(batch)


def test_a_step_copies_nothing_and_room_that_others_hold_is_left_alone():
    layer = GhostLayer()
    layer.update(torch.zeros(1, 2, 100, 4), torch.zeros(1, 2, 100, 4))
    held = layer.keys
    layer.update(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4))
    assert layer.keys.data_ptr() == held.data_ptr()
    whole = stored(layer.keys.numpy())
    assert whole.flags.c_contiguous
    assert whole.shape[2] > 101
    assert whole.ctypes.data == layer.keys.data_ptr()
    # Tensors that other hands put in the layer's place are not written into.
    mine = torch.full((1, 2, 50, 4), 7.0)
    layer.keys = layer.values = mine
    layer.update(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4))
    assert mine.shape[2] == 50
    assert torch.equal(layer.keys[:, :, :50], mine)
    assert layer.keys[0, 0, 50].tolist() == [1.0] * 4


def test_stored_copies_what_lies_otherwise():
    rng = np.random.default_rng(3)
    room = rng.normal(size=(2, 3, 20, 4)).astype(np.float32)
    for view, shared in (
        (room, True), (room[:, :, :7], True), (room[:1, :, :7], True), (room[:, :1, :7], True), (room[..., :2], False),
        (room.transpose(0, 2, 1, 3), False), (room[:, :, ::2], False), (room[:, :, 3:9], True), (room[:, ::-1], False),
    ):  # fmt: skip
        found = stored(view)
        assert found.flags.c_contiguous
        assert np.array_equal(found[:, :, : view.shape[2]], view)
        assert np.shares_memory(found, room) == shared
