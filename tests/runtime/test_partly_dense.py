"""KV heads that stay dense: their output is exact attention, their bytes are all of them, and the others decide as before."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dataclasses import replace  # noqa: E402

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from ghostkv.captures.capture_files import LayerCapture  # noqa: E402
from ghostkv.elimination.attention import cold_range  # noqa: E402
from ghostkv.files.errors import ConfigError, ModelError  # noqa: E402
from ghostkv.runtime.certified import CertifiedMass  # noqa: E402
from ghostkv.runtime.deciders import Call  # noqa: E402
from ghostkv.runtime.flat import calibrated_ratios, flat_heads  # noqa: E402
from ghostkv.runtime.ghost_attention import set_policy  # noqa: E402
from ghostkv.runtime.ghost_decider import GhostDecider, GhostFrames  # noqa: E402
from ghostkv.runtime.partly_dense import PartlyDense  # noqa: E402
from ghostkv.runtime.policy import ghost_policy  # noqa: E402
from ghostkv.runtime.traffic import COLUMNS, made  # noqa: E402
from tests.runtime.ghost_fixtures import (  # noqa: E402
    CONTEXT,
    HEADS,
    KV_HEADS,
    LAYERS,
    TOKENS,
    block,
    captured,
    fitted,
    frames,
    ghostly,
    nested,
    stepwise,
    text,
    tiny,
)

SMALL = {"sinks": 2, "hot": 8}
SHARES = (0.05, 0.2, 0.5)
GROUPS, GROUP, WIDTH, LENGTH, NEW = 3, 2, 16, 90, 7


def drawn(seed: int) -> LayerCapture:
    """A layer of three KV heads with two heads each; queries are the last ones."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(GROUPS, LENGTH, WIDTH)).astype(np.float16)
    return LayerCapture(
        layer=5, keys=keys, values=rng.normal(size=keys.shape).astype(np.float16), outputs=None,
        queries=rng.normal(size=(GROUPS * GROUP, NEW, WIDTH)).astype(np.float32) * 3,
        positions=np.arange(LENGTH - NEW, LENGTH), scale=0.25, softcap=0.0,
    )  # fmt: skip


def call(capture: LayerCapture, first=(0,)) -> Call:
    """Its queries as a call; one row of a batch for each first visible token."""
    return Call(
        *(np.repeat(one[None].astype(np.float32), len(first), axis=0) for one in (capture.queries, capture.keys, capture.values)),
        np.array(first, np.int64), int(capture.positions[0]), capture.scale, capture.softcap, 2, 8, True, capture.layer,
    )  # fmt: skip


def deciders(capture: LayerCapture, kind: str):
    if kind == "certified":
        return CertifiedMass(nested(capture), 0.2, SHARES)
    theta = np.linspace(-4.0, -2.0, capture.heads, dtype=np.float32)
    return GhostDecider(GhostFrames.of(fitted(capture)), theta)


def column(rows: np.ndarray, *names: str) -> np.ndarray:
    return sum(rows[:, COLUMNS.index(name)] for name in names)


def exact(some: Call) -> np.ndarray:
    """Attention in float64, [batch, queries, heads, dim]; zero for padding."""
    out = np.zeros(some.empty().shape)
    for b, head, t in np.ndindex(out.shape[0], out.shape[2], out.shape[1]):
        end = some.past + t + 1
        keys, values = (
            one[b, head // some.group, some.first[b] : end].astype(float) for one in (some.keys, some.values)
        )
        if len(keys):
            weights = np.exp(keys @ some.query[b, head, t].astype(float) * some.scale)
            out[b, t, head] = weights @ values / weights.sum()
    return out


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["ghost", "certified"]),
    dense=st.sets(st.integers(0, GROUPS - 1), min_size=1, max_size=GROUPS - 1),
    first=st.lists(st.integers(0, LENGTH - 1), min_size=1, max_size=2),
)
def test_dense_heads_are_exact_and_counted_whole_and_the_others_decide_as_before(seed, kind, dense, first):
    capture = drawn(seed)
    whole, some = deciders(capture, kind), call(capture, first)
    partly = PartlyDense.of(whole, dense)
    before, _ = whole.attend(whole.start(), some)
    out, rows = partly.attend(partly.start(), some)
    truth = exact(some)
    for head in range(capture.heads):
        if head // GROUP in dense:
            np.testing.assert_allclose(out[:, :, head], truth[:, :, head], rtol=1e-4, atol=1e-5)
        else:
            assert np.array_equal(out[:, :, head], before[:, :, head])
    # The ledger: what the others read by themselves, and all that the dense ones hold.
    rest = [head for head in range(GROUPS) if head not in dense]
    left = whole.part(rest)
    heads = [GROUP * head + g for head in rest for g in range(GROUP)]
    alone = replace(
        some,
        query=some.query[:, heads].copy(),
        keys=some.keys[:, rest].copy(),
        values=some.values[:, rest].copy(),
    )
    theirs = made(left.attend(left.start(), alone)[1])
    own = rows[:, : len(COLUMNS)] - theirs[:, : len(COLUMNS)]
    assert np.array_equal(column(own, "survivor_bytes", "hot"), column(own, "full"))
    assert np.array_equal(column(own, "head_survivor_bytes", "head_hot"), column(own, "head_full"))
    assert np.array_equal(column(own, "dense"), column(own, "full"))
    assert not column(own, "records", "head_records", "violated").any()
    seen = sum(np.maximum(np.arange(LENGTH - NEW, LENGTH) + 1 - begin, 0) for begin in first)
    assert np.array_equal(column(own, "full"), seen * len(dense) * 4.0 * WIDTH)
    assert np.array_equal(column(own, "survivors"), GROUP * column(own, "cold"))
    assert np.array_equal(rows[:, -1], theirs[:, -1], equal_nan=True)


def test_a_layer_is_refused_that_has_other_heads():
    capture = drawn(0)
    partly = PartlyDense.of(deciders(capture, "ghost"), [1])
    partly.check(GROUPS * GROUP, GROUPS, WIDTH, "layer 5")
    for shape in ((GROUPS * GROUP, 2, WIDTH), (9, GROUPS, WIDTH), (GROUPS * GROUP, GROUPS, 8)):
        with pytest.raises(ConfigError, match=r"KV heads \[1\]"):
            partly.check(*shape, "layer 5")
    for dense in ((), (1, 1), (1, 0), (3,), (-1,)):
        with pytest.raises(ValueError, match="KV heads"):
            PartlyDense(partly.decider, dense)


def test_what_is_not_finite_is_named_by_the_layers_own_head():
    capture = drawn(0)
    some = call(capture)
    some.keys[0, 2, 40, 3] = np.nan
    partly = PartlyDense.of(deciders(capture, "ghost"), [0])
    with pytest.raises(ModelError, match="layer 5, KV head 2: the key of token 40"):
        partly.attend(partly.start(), some)


def test_all_heads_dense_is_the_model_itself():
    model, ids = tiny(), text()
    with torch.inference_mode():
        own = model(ids).logits[:, CONTEXT:]
    policy = ghost_policy(frames(captured(model)), 0.0, HEADS, **SMALL)
    everything = policy.leaving_dense({layer: range(KV_HEADS) for layer in range(LAYERS)})
    assert everything.dense_layers == (0, 1)
    assert not everything.deciders
    assert not everything.dense_heads
    traffic = set_policy(ghostly(model), everything)
    for run in (block, stepwise):
        assert (run(model, ids) - own).abs().max() < 2e-5
    counted = traffic.summary()
    assert (
        counted["bytes_ratio_gqa"]
        == counted["bytes_ratio"]
        == counted["dense"]
        == counted["kept_fraction"]
        == 1.0
    )
    assert counted["elimination"] == 0.0


def test_one_head_a_layer_dense_and_nothing_eliminated_is_the_model_itself():
    model, ids = tiny(), text()
    with torch.inference_mode():
        own = model(ids).logits[:, CONTEXT:]
    found = frames(captured(model))
    policy = ghost_policy(found, -np.inf, HEADS, **SMALL).leaving_dense({0: [1], 1: [0]})
    assert policy.dense_heads == {0: (1,), 1: (0,)}
    traffic = set_policy(ghostly(model), policy)
    for run in (block, stepwise):
        traffic.reset()
        assert (run(model, ids) - own).abs().max() < 2e-5
        counted = traffic.summary()
        assert counted["dense"] == 0.5
        queries = traffic.queries()
        record = found[0].record_bytes * queries["cold"].sum() / 2
        assert counted["bytes_ratio_gqa"] == pytest.approx(1 + record / queries["full"].sum(), rel=1e-12)
    # Layers that are dense already stay so.
    assert replace(policy, dense_layers=(0,)).leaving_dense({0: [0]}).dense_layers == (0,)


def test_ratios_are_those_that_a_running_layer_counts():
    for capture in captured(tiny()):
        some = Call(
            np.ascontiguousarray(capture.queries[None, :, CONTEXT:]), capture.keys[None].astype(np.float32),
            capture.values[None].astype(np.float32), np.zeros(1, np.int64), CONTEXT, capture.scale, 0.0, 2, 8, True, 0,
        )  # fmt: skip
        theta = np.linspace(-6.0, -3.0, HEADS, dtype=np.float32)
        decider = GhostDecider(GhostFrames.of(fitted(capture)), theta)
        found = calibrated_ratios([capture, capture], fitted(capture), theta, 2, 8, CONTEXT)
        for head in range(KV_HEADS):
            left = decider.part([head])
            heads = slice(head * HEADS // KV_HEADS, (head + 1) * HEADS // KV_HEADS)
            alone = replace(
                some,
                query=some.query[:, heads].copy(),
                keys=some.keys[:, [head]].copy(),
                values=some.values[:, [head]].copy(),
            )
            rows = made(left.attend(left.start(), alone)[1])
            read = column(rows, "records", "survivor_bytes", "hot").sum() / column(rows, "full").sum()
            assert found[head] == pytest.approx(read, rel=1e-3)


def test_a_head_that_keeps_all_is_flat_by_its_records():
    capture = captured(tiny())[0]
    theta = np.array([-np.inf, -np.inf, -2.0, -2.0], np.float32)
    ratios = calibrated_ratios([capture], fitted(capture), theta, 2, 8, CONTEXT)
    visible = cold_range(np.arange(CONTEXT, TOKENS), np.zeros(TOKENS - CONTEXT, int), 2, 8)
    record = fitted(capture)[0].record_bytes * visible.cold.sum() / (64 * visible.visible.sum())
    assert ratios[0] == pytest.approx(1 + record, rel=1e-12)
    assert flat_heads({3: ratios}) == {3: {0: ratios[0]}}
    assert flat_heads({3: np.array([0.999, 1.0])}) == {3: {1: 1.0}}


def test_without_a_query_that_counts_nothing_is_decided():
    capture = captured(tiny())[0]
    with pytest.raises(ConfigError, match=f"position {TOKENS}.*\n.*headline_start: 79"):
        calibrated_ratios([capture], fitted(capture), np.zeros(HEADS, np.float32), 2, 8, TOKENS)
