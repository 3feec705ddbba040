"""What the probe finds of attention that tiny models run, and what it refuses."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ghostkv.files.errors import CaptureError, GhostKVError, ModelError  # noqa: E402
from ghostkv.models.interface import ordinary_attention  # noqa: E402
from ghostkv.models.probe import attention_layers, measurable_layers, new_cache  # noqa: E402
from tests.survey.tiny import tiny_model  # noqa: E402


def found(kind):
    return {
        layer: (one.heads, one.kv_heads, one.head_dim, one.value_dim, one.window)
        for layer, one in measurable_layers(tiny_model(kind)).items()
    }


def test_shapes_are_those_that_attention_is_handed():
    assert found("llama") == dict.fromkeys(range(4), (4, 4, 16, 16, 0))
    assert found("gemma2") == {layer: (4, 2, 16, 16, 24 * (layer % 2 == 0)) for layer in range(4)}
    assert found("gpt_neox").keys() == {0, 1, 2, 3}


def test_only_layers_that_attend_over_their_own_cache_count():
    assert found("lfm2").keys() == {1, 3}
    assert found("olmo_hybrid").keys() == {3}
    # The last two layers of this Gemma 3n read the cache of earlier ones.
    assert found("gemma3n_text").keys() == {0, 1}
    # A capture is of one shape: layers with other heads or other widths stay dense.
    assert found("laguna") == dict.fromkeys((0, 2), (4, 2, 16, 16, 0))
    assert found("gemma4_text") == {3: (4, 2, 32, 32, 0)}
    # The windowed layers of this one have learned sinks.
    assert found("mimo_v2_flash").keys() == {0}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("bloom", "BloomForCausalLM"),
        ("falcon", "FalconForCausalLM"),
        ("mamba", "no layer sends"),
        ("jetmoe", "other keys than those that the cache holds"),
        ("deepseek_v3", "other keys than those that the cache holds"),
        ("gpt_oss", "s_aux"),
        ("diffllama", "more than once"),
        ("moshi", "window"),
        ("doge", "mask"),
        ("xlnet", "XLNetLMHeadModel"),
        # Recurrent layers that remember in themselves, and such that begin anew with every block.
        ("recurrent_gemma", "over its cache"),
        ("jamba", "over its cache"),
    ],
)
def test_what_cannot_be_measured_is_refused(kind, said):
    model = tiny_model(kind)
    before = model.config._attn_implementation
    with pytest.raises(GhostKVError, match=said):
        measurable_layers(model)
    assert model.config._attn_implementation == before


def test_a_model_that_sees_what_comes_is_refused():
    config = transformers.AutoConfig.for_model(
        "bert",
        vocab_size=128,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
    )
    with pytest.raises(ModelError, match="not causal"):
        attention_layers(transformers.AutoModelForCausalLM.from_config(config).eval())


def test_an_attention_that_does_more_than_it_says_is_refused(monkeypatch):
    """Its own attention has half the scale that it states."""
    model = tiny_model("llama")
    eager = transformers.models.llama.modeling_llama.eager_attention_forward
    monkeypatch.setattr(
        "transformers.models.llama.modeling_llama.eager_attention_forward",
        lambda *args, scaling, **kwargs: eager(*args, scaling=scaling / 2, **kwargs),
    )
    model.set_attn_implementation("eager")
    with pytest.raises(ModelError, match="more than a softmax"):
        attention_layers(model)


def test_a_model_is_probed_once(monkeypatch):
    model, calls = tiny_model("llama"), []

    def counted(*args, **kwargs):
        calls.append(args[0])
        return ordinary_attention(*args, **kwargs)

    monkeypatch.setattr("ghostkv.models.watch.ordinary_attention", counted)
    first = attention_layers(model)
    count = len(calls)
    assert count
    assert attention_layers(model) is first
    assert len(calls) == count


def test_a_window_forgets_nothing_in_a_new_cache():
    model = tiny_model("mistral")
    ids = torch.arange(3, 43)[None]
    with torch.inference_mode():
        whole = model(ids).logits
        cache = new_cache(model)
        model(ids[:, :30], cache=cache)
        model(ids[:, 10:20], cache=cache)
        cache.crop(-10)
        assert (model(ids[:, 30:], cache=cache).logits - whole[:, 30:]).abs().max() < 1e-4


def test_a_forward_pass_that_fails_is_told_as_the_models_own():
    from ghostkv.models.capture import record_attention

    model = tiny_model("opt")
    with pytest.raises(CaptureError, match="its own forward pass fails on 600 tokens"):
        record_attention(model, [5] * 600, torch.arange(4).numpy(), lambda *pair: None)
