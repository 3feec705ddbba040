"""A model that decodes under elimination: exact where nothing is eliminated, the same on both paths."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, StaticCache  # noqa: E402

from ghostkv.files.errors import CaptureError, ConfigError, ModelError  # noqa: E402
from ghostkv.runtime import ghost_decider  # noqa: E402
from ghostkv.runtime.continuation import Continuation  # noqa: E402
from ghostkv.runtime.ghost_attention import dense_attention, register, set_policy  # noqa: E402
from ghostkv.runtime.measure import check_identity, measure_identity  # noqa: E402
from ghostkv.runtime.policy import Policy, ghost_policy, identity_policy  # noqa: E402
from tests.runtime.ghost_fixtures import (  # noqa: E402
    CONTEXT,
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    LAYERS,
    TOKENS,
    block,
    captured,
    fitted,
    frames,
    ghostly,
    stepwise,
    text,
    tiny,
)

SMALL = {"sinks": 2, "hot": 8}


@pytest.fixture(scope="module")
def llama():
    model = tiny()
    return model, captured(model)


def sparse_policy(captures, theta: float = -4.0, **options) -> Policy:
    return ghost_policy(frames(captures), theta, HEADS, **(SMALL | options))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_with_theta_at_minus_infinity_the_logits_are_the_models_own(family):
    model, ids = tiny(family), text()
    with torch.inference_mode():
        own = model(ids).logits[:, CONTEXT:]
    ghostly(model)
    traffic = set_policy(model, identity_policy(model.config, **SMALL))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (block(model, ids) - own).abs().max() < 2e-5
        assert (stepwise(model, ids) - own).abs().max() < 2e-5
    layers = traffic.layers()
    wide = layers.filter(layers["cold"] > 0)
    assert wide["kept_fraction"].to_list() == [1.0] * len(wide)
    assert len(wide)


def test_two_lines_and_generate(tmp_path):
    model, ids = tiny(), text(60)
    model.save_pretrained(tmp_path)
    own = model.generate(ids, max_new_tokens=12, do_sample=False)
    register()
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="ghostkv")
    traffic = set_policy(model, identity_policy(model.config, **SMALL))
    assert torch.equal(model.generate(ids, max_new_tokens=12, do_sample=False), own)
    # The first new token comes from the prefill, the last one is never read.
    assert traffic.summary()["queries"] == 11 * LAYERS
    assert traffic.positions()["position"].to_list() == list(range(60, 71))


def test_generate_decodes_under_elimination(llama):
    model, captures = ghostly(tiny()), llama[1]
    traffic = set_policy(model, sparse_policy(captures))
    assert model.generate(text(80), max_new_tokens=10, do_sample=False).shape == (1, 90)
    assert 0.1 < traffic.summary()["elimination"] < 0.999


@pytest.mark.parametrize("shared", [True, False])
def test_a_block_of_queries_decides_as_single_steps_do(llama, shared):
    model, ids = ghostly(tiny()), text()
    traffic = set_policy(model, sparse_policy(llama[1], shared=shared))
    at_once = block(model, ids)
    counted = traffic.queries().sort("layer", "position")
    traffic.reset()
    assert (stepwise(model, ids) - at_once).abs().max() < 1e-4
    assert traffic.queries().sort("layer", "position").equals(counted)
    assert 0.1 < traffic.summary()["elimination"] < 0.999


def test_left_padding_changes_nothing(llama):
    model, pads = ghostly(tiny()), 17
    traffic = set_policy(model, sparse_policy(llama[1]))
    short, long = text(TOKENS - pads, seed=5), text()
    alone = [stepwise(model, short, CONTEXT - pads), stepwise(model, long)]
    separately = traffic.summary()
    traffic.reset()
    ids = torch.cat([torch.nn.functional.pad(short, (pads, 0)), long])
    mask = torch.ones_like(ids)
    mask[0, :pads] = 0
    together = stepwise(model, ids, mask=mask)
    assert (together[0] - alone[0][0]).abs().max() < 1e-4
    assert (together[1] - alone[1][0]).abs().max() < 1e-4
    assert traffic.summary()["bytes_ratio_gqa"] == pytest.approx(separately["bytes_ratio_gqa"], rel=1e-9)
    padded = block(model, ids, mask=mask)
    assert (padded - together).abs().max() < 1e-4


def test_layers_with_a_sliding_window_stay_dense_and_say_so_once():
    model, ids = tiny("mistral"), text()
    with torch.inference_mode():
        own = model(ids).logits[:, CONTEXT:]
    traffic = set_policy(ghostly(model), identity_policy(model.config, **SMALL))
    with pytest.warns(UserWarning, match="sliding window") as caught:
        decoded = stepwise(model, ids)
    assert len([one for one in caught if "sliding" in str(one.message)]) == 1
    assert (decoded - own).abs().max() < 2e-5
    assert traffic.summary()["bytes_ratio_gqa"] == 1.0
    assert traffic.queries()["visible"].max() == 24 * 2


def test_no_query_sees_what_comes_after_it(llama):
    model, ids = ghostly(tiny()), text()
    set_policy(model, sparse_policy(llama[1]))
    changed = ids.clone()
    changed[:, -10:] = text(10, seed=9)
    one, other = block(model, ids), block(model, changed)
    assert torch.equal(one[:, : -10 - 1], other[:, : -10 - 1])
    assert not torch.equal(one[:, -1], other[:, -1])


def test_cropping_the_cache_forgets_exactly_what_was_cropped(llama):
    model, ids = ghostly(tiny()), text()
    traffic = set_policy(model, sparse_policy(llama[1]))
    with torch.inference_mode():
        cache = model(ids[:, :CONTEXT], use_cache=True).cache
        first = model(ids[:, CONTEXT:], cache=cache).logits
        model(text(7, seed=8), cache=cache)
        cache.crop(CONTEXT - cache.get_seq_length())
        traffic.reset()
        again = model(ids[:, CONTEXT:], cache=cache).logits
    assert torch.equal(first, again)


def test_beam_search_reorders_records_with_the_cache(llama):
    model, ids = tiny(), text(60)
    options = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False}
    own = model.generate(ids, **options)
    set_policy(ghostly(model), identity_policy(model.config, **SMALL))
    assert torch.equal(model.generate(ids, **options), own)


def test_dense_layers_and_dense_stretches_count_in_full_and_not_at_all(llama):
    model, ids = ghostly(tiny()), text()
    traffic = set_policy(model, sparse_policy(llama[1], dense_layers=(0,)))
    block(model, ids)
    assert traffic.layers()["bytes_ratio_gqa"][0] == 1.0 > traffic.layers()["bytes_ratio_gqa"][1]
    traffic.reset()
    with dense_attention(model):
        dense = block(model, ids)
    assert traffic.summary()["queries"] == 0
    with torch.inference_mode():
        assert (dense - tiny()(ids).logits[:, CONTEXT:]).abs().max() < 2e-5


def test_counters_agree_with_a_count_by_hand(llama):
    """Survivors of every head from codec, captured queries and keys, with plain NumPy."""
    capture, theta = llama[1][0], -3.0
    model = ghostly(tiny())
    traffic = set_policy(model, sparse_policy(llama[1], theta=theta))
    block(model, text(seed=2))
    counted = traffic.queries().filter(traffic.queries()["layer"] == 0).sort("position")
    codecs = fitted(capture)
    for row in counted.iter_rows(named=True):
        n = row["position"] + 1
        united = survivors = 0
        for head, codec in enumerate(codecs):
            keys = capture.keys[head, :n].astype(np.float32)
            decoded = codec.decode(codec.encode(keys))
            reads = np.zeros((2, n), bool)
            for g, query in enumerate(capture.group_queries(head)[:, n - 1]):
                known = keys @ query * capture.scale
                estimate = codec.estimate(codec.project(query[None]), decoded, capture.scale)[0]
                known[2 : n - 8] = estimate[2 : n - 8]
                reads[g] = known - np.log(np.exp(known).sum()) >= theta
            reads[:, :2] = reads[:, n - 8 :] = False
            survivors, united = survivors + reads.sum(), united + reads.any(axis=0).sum()
        assert row["visible"] == 2 * n
        assert row["cold"] == 2 * (n - 10)
        # The capture rounds keys to float16, so that a key at the very threshold may fall either way.
        assert abs(row["survivors"] - survivors) <= 2
        assert abs(row["united"] - united) <= 2
        pair = 2 * 2 * 16
        read = row["cold"] * 5 + (row["united"] + row["visible"] - row["cold"]) * pair
        assert row["bytes_ratio_gqa"] == pytest.approx(read / (row["visible"] * pair))


def test_sparse_prefill_is_a_block_from_the_first_token_on(llama):
    model, ids = ghostly(tiny()), text()
    set_policy(model, sparse_policy(llama[1], prefill="sparse"))
    with torch.inference_mode():
        assert (model(ids).logits[:, 20:] - stepwise(model, ids, 20)).abs().max() < 1e-4


def test_what_is_wrong_is_said(llama):
    captures, ids = llama[1], text(20)
    with pytest.raises(ModelError, match="attn_implementation"):
        set_policy(tiny(), sparse_policy(captures))
    model = ghostly(tiny())
    with pytest.raises(ModelError, match="no policy|before it has a policy"):
        model(ids)
    with pytest.raises(ModelError, match="no policy"), dense_attention(model):
        pass
    with pytest.raises(ConfigError, match=r"no codec for layers \[1\]"):
        set_policy(model, ghost_policy({0: frames(captures)[0]}, -4.0, HEADS))
    with pytest.raises(ConfigError, match=r"dense_layers names \[99\].*\n.*Write: dense_layers: \[1\]"):
        set_policy(model, sparse_policy(captures, dense_layers=(1, 99)))
    with pytest.raises(ConfigError, match="head_dim"):
        set_policy(ghostly(tiny("gpt2")), sparse_policy(captures))
    with pytest.raises(ConfigError, match="prefill"):
        sparse_policy(captures, prefill="lazy")
    set_policy(model, sparse_policy(captures))
    cache = model(ids, use_cache=True).cache
    cache = model(ids, use_cache=True).cache
    with pytest.raises(ModelError, match="gradients"):
        model(ids, cache=cache)
    with torch.inference_mode():
        cache = StaticCache(model.config, max_cache_len=64)
        with pytest.raises(ModelError, match="DynamicCache"):
            model(ids, cache=cache)


def test_a_mask_with_holes_is_refused(llama):
    model, ids = ghostly(tiny()), text()
    set_policy(model, sparse_policy(llama[1]))
    mask = torch.ones_like(ids)
    mask[:, 50] = 0
    with pytest.raises(ModelError, match="left"):
        stepwise(model, ids, mask=mask)


def test_the_measures_of_the_machinery(llama):
    model, ids = tiny(), text()[0].tolist()
    found = measure_identity(model, ids)
    assert found["max_logit_difference"] < 2e-5
    assert found["steps"] == 8
    assert model.config._attn_implementation != "ghostkv"


def test_records_are_written_once_a_token_and_live_in_the_cache(llama, monkeypatch):
    model, ids, written = ghostly(tiny()), text(), []
    set_policy(model, sparse_policy(llama[1]))
    kernel = ghost_decider.write_records
    monkeypatch.setattr(
        ghost_decider,
        "write_records",
        lambda keys, first, tokens, *rest: (
            written.append(tokens - first),
            kernel(keys, first, tokens, *rest),
        ),
    )
    stepwise(model, ids)
    assert written == [CONTEXT + 1] * LAYERS + [1] * LAYERS * (TOKENS - CONTEXT - 1)


def test_a_cache_that_does_not_reach_the_attention_is_an_error(llama):
    model, ids = ghostly(tiny()), text()
    set_policy(model, sparse_policy(llama[1]))
    with torch.inference_mode():
        cache = model(ids[:, :CONTEXT], use_cache=True).cache
        for layer in model.model.layers:
            layer.self_attn.__dict__["_ghostkv_seat"].hook.remove()
        with pytest.raises(ModelError, match="was not handed the cache"):
            model(ids[:, CONTEXT:], cache=cache)


FOREIGN = {
    "s_aux": torch.zeros(HEADS), "sinks": torch.zeros(HEADS), "position_bias": torch.zeros(1, HEADS, 1, 9),
    "indices": torch.zeros(1, 1, 4), "block_indices": torch.zeros(1, 1, 4), "dropout": 0.1, "is_causal": False,
    "never_heard_of": 1.0, "output_attentions": True,
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_attention_that_is_more_than_its_queries_and_keys_is_refused(llama, name):
    model = ghostly(tiny())
    query, key = torch.randn(1, HEADS, 1, HEAD_DIM), torch.randn(1, KV_HEADS, 9, HEAD_DIM)
    idle = {
        "dropout": 0.0,
        "is_causal": None,
        "position_ids": torch.zeros(1, 1),
        "cache": None,
        "output_attentions": False,
    }
    for dense in ((), (0,)):
        set_policy(model, sparse_policy(llama[1], dense_layers=dense))
        seat = model.model.layers[0].self_attn.__dict__["_ghostkv_seat"]
        module = model.model.layers[0].self_attn
        attend = partial(seat.attend, module, query, key, key, None, scaling=0.25)
        with torch.inference_mode():
            # Dense layers hand on what SDPA takes; nobody drops what it does not know.
            if dense and name in ("position_bias", "dropout", "is_causal"):
                assert attend(**idle | {name: FOREIGN[name]}).shape == (1, 1, HEADS, HEAD_DIM)
            else:
                with pytest.raises(CaptureError, match=name):
                    attend(**idle | {name: FOREIGN[name]})


def test_weights_of_keys_that_are_never_read_cannot_be_asked_for(llama):
    model, ids = ghostly(tiny()), text(20)
    for policy in (sparse_policy(llama[1]), Policy("full", {}, dense_layers=tuple(range(LAYERS)))):
        set_policy(model, policy)
        with pytest.raises(CaptureError, match="output_attentions"):
            model(ids, output_attentions=True)
        with pytest.raises(CaptureError, match="output_attentions"):
            model.generate(ids, max_new_tokens=2, output_attentions=True, return_dict_in_generate=True)


def test_heads_that_see_different_keys_are_refused(llama):
    model, ids = ghostly(tiny()), text()
    set_policy(model, sparse_policy(llama[1]))
    mask = torch.ones(1, HEADS, TOKENS - CONTEXT, TOKENS, dtype=torch.bool).tril(CONTEXT)
    with torch.inference_mode():
        cache = model(ids[:, :CONTEXT], use_cache=True).cache
        other = mask.clone()
        other[:, 1:, :, 30:40] = False
        with pytest.raises(ModelError, match="causal"):
            model(ids[:, CONTEXT:], cache=cache, attention_mask=other)


@pytest.mark.parametrize("family", ["gemma2", "vaultgemma"])
@pytest.mark.parametrize("window", [24, 256])
def test_capped_layers_decode_right_within_their_window_and_beyond_it(family, window):
    model = tiny(family, sliding_window=window)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = measure_identity(model, text()[0].tolist())
    check_identity(found, model)
    assert found["max_logit_difference"] < 1e-5


@pytest.mark.parametrize("window", [24, 256])
def test_sinks_of_layers_that_stay_dense_take_part(window):
    model = tiny("gpt_oss", sliding_window=window)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.copy_(torch.arange(float(HEADS)))
    dense = Policy("full", {}, dense_layers=tuple(range(LAYERS)))
    assert measure_identity(model, text()[0].tolist(), dense)["max_logit_difference"] < 1e-5


@pytest.mark.parametrize("way", ["prefill", "block", "step", "own"])
def test_identity_is_refused_beyond_its_bound_and_where_it_is_no_number(way):
    model = tiny()
    fine = dict.fromkeys(
        ("prefill_difference", "block_difference", "step_difference", "own_difference"), 1e-5
    )
    fine |= {"bound": 1e-4, "context": 3, "attention_difference": 1e-3}
    check_identity(fine, model)
    for wrong in (1.01e-4, float("nan")):
        with pytest.raises(ModelError, match=f"{way}_difference {wrong:.3g}"):
            check_identity(fine | {f"{way}_difference": wrong}, model)


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_models_with_windows_and_caps_are_measured(family):
    model, ids = tiny(family), text()[0].tolist()
    assert measure_identity(model, ids)["max_logit_difference"] < 5e-5
    begun = Continuation(model, ids, CONTEXT)
    own = begun.own()
    with pytest.warns(UserWarning, match="sliding window") if family == "mistral" else nullcontext():
        decoded = begun.decode(identity_policy(model.config))
    np.testing.assert_allclose(decoded.logits, own, atol=5e-5)
    assert decoded.traffic.positions()["position"].to_list() == list(range(CONTEXT, TOKENS))


def test_a_sliding_cache_counts_the_tokens_that_it_let_go():
    model, ids = ghostly(tiny("mistral")), text()
    traffic = set_policy(model, identity_policy(model.config))
    with pytest.warns(UserWarning, match="sliding window"):
        stepwise(model, ids)
    assert traffic.positions()["position"].to_list() == list(range(CONTEXT, TOKENS))


def test_sparse_prefill_reads_the_context_under_the_policy(llama):
    model, ids = tiny(), text()[0].tolist()
    begun = Continuation(model, ids, CONTEXT)
    dense, sparse = (begun.decode(sparse_policy(llama[1], prefill=kind)) for kind in ("dense", "sparse"))
    assert dense.traffic.positions()["position"].to_list() == list(range(CONTEXT, TOKENS))
    assert sparse.traffic.positions()["position"].to_list() == list(range(TOKENS))
    assert sparse.logits.shape == dense.logits.shape
    assert np.abs(sparse.logits - dense.logits).max() > 1e-3
    np.testing.assert_array_equal(begun.decode(sparse_policy(llama[1])).logits, dense.logits)
    whole = begun.decode(identity_policy(model.config, prefill="sparse"))
    np.testing.assert_allclose(whole.logits, begun.own(), atol=5e-5)
