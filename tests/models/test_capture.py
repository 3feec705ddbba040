"""What a capture holds is what the model's attention read: checked against the model's own cache."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ghostkv.files.errors import CaptureError, ConfigError  # noqa: E402
from ghostkv.models.capture import record_attention  # noqa: E402
from ghostkv.models.interface import attention_through, ordinary_attention  # noqa: E402
from ghostkv.models.proof import recompute  # noqa: E402

TOKENS = 96
POSITIONS = np.array([0, 5, 17, 40, 63, 64, 80, 95])
BASE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
GPT2 = {"vocab_size": 128, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}
NEOX = {key: value for key, value in BASE.items() if key not in ("num_key_value_heads", "head_dim")}
SLIDING_FIRST = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES = {
    "llama": ("llama", BASE),
    "gpt2": ("gpt2", GPT2),
    "gpt2_scaled_by_layer": ("gpt2", GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox": ("gpt_neox", NEOX),
    "mistral": ("mistral", BASE | {"sliding_window": 24}),
    "mistral_without_window": ("mistral", BASE | {"sliding_window": None}),
    "qwen2": ("qwen2", BASE),
    "qwen2_sliding": (
        "qwen2",
        BASE | {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", BASE),
    "gemma": ("gemma", BASE),
    "gemma2": (
        "gemma2",
        BASE | {"sliding_window": 24, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
    ),
    "gemma3": (
        "gemma3_text",
        BASE | {"sliding_window": 24, "query_pre_attn_scalar": 16, "layer_types": SLIDING_FIRST},
    ),
    "phi3": ("phi3", BASE | {"pad_token_id": 0}),
    "olmo2": ("olmo2", BASE),
}


def tiny(family: str, **changes):
    """A random model whose attention is not flat."""
    kind, sizes = FAMILIES[family]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **(sizes | changes))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6.0)
    return model


def token_ids(tokens: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 127, tokens)


def captured(model, positions=POSITIONS, **options):
    layers = []
    record_attention(model, token_ids(), positions, lambda *pair: layers.append(pair), **options)
    return layers


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_values_are_those_of_the_models_own_cache(family):
    model = tiny(family)
    layers = captured(model, cache_dtype="model")
    ids = torch.as_tensor(token_ids())[None]
    with torch.inference_mode():
        # An eager run without the hook; the static view of a dynamic cache: all tokens of every layer.
        model.set_attn_implementation("eager")
        cache = transformers.DynamicCache()
        model(ids, cache=cache, use_cache=True)
    assert [capture.layer for capture, _ in layers] == [0, 1, 2]
    for capture, _ in layers:
        own = cache.layers[capture.layer]
        np.testing.assert_allclose(capture.keys, own.keys[0].numpy(), rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(capture.values, own.values[0].numpy(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_recomputed_from_the_stored_tensors_is_the_models_own(family):
    for capture, proof in captured(tiny(family)):
        assert proof["max_relative_error"] < 2e-5
        assert proof["mean_relative_error"] <= proof["max_relative_error"]
        assert proof["exact_relative_error"] < 2e-5
        assert proof["recomputed"] == capture.heads * len(POSITIONS)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untouched_model_is_matched_to_float_tolerance_before_storage(family):
    for _, proof in captured(tiny(family), cache_dtype="model"):
        assert proof["exact_relative_error"] < 2e-5
        assert 1e-7 < proof["storage_relative_error"] < 3e-2
        # What separates file and model is the rounding of the storage and nothing else.
        assert proof["max_relative_error"] == pytest.approx(
            proof["storage_relative_error"], rel=0.05, abs=2e-5
        )


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2", "gemma3"])
def test_the_hook_leaves_the_models_output_as_it_is(family):
    model, ids = tiny(family), torch.as_tensor(token_ids())[None]
    with torch.inference_mode():
        model.set_attn_implementation("eager" if family == "gemma2" else "sdpa")
        plain = model(ids, use_cache=False).logits

        def attend(module, query, key, value, mask, **kwargs):
            return ordinary_attention(module, query, key, value, mask, **kwargs), None

        with attention_through(model, attend):
            hooked = model(ids, use_cache=False).logits
    torch.testing.assert_close(hooked, plain, rtol=1e-4, atol=1e-4)


def test_grouped_keys_stay_unexpanded():
    capture, _ = captured(tiny("llama"))[0]
    assert capture.keys.shape == (2, TOKENS, 16)
    assert capture.keys.dtype == np.float16
    assert capture.queries.shape == (4, len(POSITIONS), 16)
    assert capture.group == 2


def test_sliding_and_global_layers_are_marked():
    def windows(family):
        return [capture.window for capture, _ in captured(tiny(family))]

    assert windows("gemma3") == [24, 0, 24]
    assert windows("gemma2") == [24, 0, 24]
    assert windows("mistral") == [24, 24, 24]
    assert windows("qwen2_sliding") == [0, 24, 24]
    assert windows("llama") == windows("mistral_without_window") == [0, 0, 0]


def test_a_window_as_long_as_the_text_still_proves_itself():
    for window in (TOKENS - 1, TOKENS, TOKENS + 1, 4096):
        layers = captured(tiny("mistral", sliding_window=window))
        assert {capture.window for capture, _ in layers} == {window}
        assert max(proof["max_relative_error"] for _, proof in layers) < 2e-5


def test_the_scale_is_the_models_own():
    scaled = [capture.scale for capture, _ in captured(tiny("gpt2_scaled_by_layer"))]
    assert scaled == pytest.approx([0.25, 0.25 / 2, 0.25 / 3])
    assert captured(tiny("gemma2", query_pre_attn_scalar=64))[0][0].scale == pytest.approx(1 / 8)


def test_the_soft_cap_is_recorded_and_counts():
    capture, _ = captured(tiny("gemma2"))[0]
    assert capture.softcap == 2.0
    uncapped = type(capture)(**(vars(capture) | {"softcap": 0.0}))
    ignoring_it, _ = recompute(uncapped, *map(torch.from_numpy, (capture.keys, capture.values)))
    assert np.abs(ignoring_it.numpy() - capture.outputs).max() > 1e-2


def test_only_the_layers_asked_for_are_recorded():
    assert [capture.layer for capture, _ in captured(tiny("llama"), layers=[2, 0])] == [0, 2]


def test_positions_say_which_queries_were_kept():
    everything, _ = captured(tiny("llama"), np.arange(TOKENS))[1]
    some, _ = captured(tiny("llama"))[1]
    np.testing.assert_array_equal(some.positions, POSITIONS)
    np.testing.assert_array_equal(some.queries, everything.queries[:, POSITIONS])
    np.testing.assert_array_equal(some.outputs, everything.outputs[:, POSITIONS])


def test_the_model_is_left_with_its_own_attention():
    model = tiny("llama")
    before = model.config._attn_implementation
    captured(model)
    assert model.config._attn_implementation == before
    with pytest.raises(ConfigError):
        captured(model, layers=[7])
    assert model.config._attn_implementation == before


def test_a_layer_that_the_model_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"layer 7.*3 layers, 0 to 2") as error:
        captured(tiny("llama"), layers=[0, 7])
    assert "Write: layers: [0]" in str(error.value)


def test_a_proof_notices_a_wrong_scale_a_wrong_window_and_swapped_heads():
    capture, _ = captured(tiny("mistral"))[1]
    keys, values = torch.from_numpy(capture.keys), torch.from_numpy(capture.values)
    own = torch.from_numpy(capture.outputs)

    def error(keys=keys, values=values, **changes):
        found, _ = recompute(type(capture)(**(vars(capture) | changes)), keys, values)
        return float((found - own).norm() / own.norm())

    assert error() < 1e-5
    assert error(scale=capture.scale * 1.05) > 1e-3
    assert error(window=capture.window + 1) > 1e-3
    assert error(window=0) > 1e-3
    assert error(keys=keys.flip(0)) > 1e-1
    assert error(values=values.roll(1, dims=1)) > 1e-1


def test_a_model_outside_the_attention_interface_is_refused():
    config = transformers.AutoConfig.for_model("bloom", vocab_size=128, hidden_size=64, n_layer=2, n_head=4)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(CaptureError, match="BloomForCausalLM.*attention interface"):
        captured(model)


def test_attention_sinks_are_refused_because_keys_do_not_carry_them():
    sizes = BASE | {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 24}
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model("gpt_oss", **sizes)
    )
    with pytest.raises(CaptureError, match="layer 0.*s_aux"):
        captured(model)


def test_a_chunked_mask_is_refused():
    model = tiny("llama")
    chunk = torch.arange(TOKENS) // 32
    mask = (torch.arange(TOKENS)[:, None] >= torch.arange(TOKENS)) & (chunk[:, None] == chunk)
    forward = model.model.layers[1].self_attn.forward
    model.model.layers[1].self_attn.forward = lambda **k: forward(
        **(k | ({"attention_mask": mask[None, None]} if k["hidden_states"].shape[1] == TOKENS else {}))
    )
    with pytest.raises(CaptureError, match="layer 1: its mask is neither causal"):
        captured(model)


@pytest.mark.parametrize("name", ["key", "value"])
def test_what_float16_cannot_hold_is_refused_by_name(name):
    model = tiny("llama")
    projection = getattr(model.model.layers[1].self_attn, f"{name[0]}_proj")
    with torch.no_grad():
        projection.weight[16:] *= 1e6
    with pytest.raises(
        CaptureError, match=f"layer 1, KV head 1: a {name} component reaches .* beyond float16"
    ):
        captured(model)


def test_nan_is_refused():
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[2].self_attn.v_proj.weight[0, 0] = torch.nan
    with pytest.raises(CaptureError, match="layer 2, head 0: the value holds NaN"):
        captured(model)


def test_an_unknown_cache_dtype_is_refused():
    with pytest.raises(ConfigError, match="cache_dtype is 'float8'"):
        captured(tiny("llama"), cache_dtype="float8")


def test_no_more_than_one_layer_is_held():
    seen, alive = [], []

    def count(capture, proof):
        seen.append(weakref.ref(capture))
        alive.append(sum(reference() is not None for reference in seen))

    record_attention(tiny("llama"), token_ids(), POSITIONS, count)
    assert alive == [1, 1, 1]
