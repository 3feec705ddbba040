"""Models with layers that do not attend: what they remember is put back where a cache is cut back."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM  # noqa: E402

from ghostkv.files.errors import ConfigError, ModelError  # noqa: E402
from ghostkv.models.probe import new_cache  # noqa: E402
from ghostkv.runtime.answering import Reader  # noqa: E402
from ghostkv.runtime.continuation import Continuation  # noqa: E402
from ghostkv.runtime.ghost_attention import NAME, register, set_policy  # noqa: E402
from ghostkv.runtime.policy import Policy, identity_policy  # noqa: E402
from ghostkv.runtime.rewind import cut_back, kept_aside  # noqa: E402
from tests.runtime.ghost_fixtures import captured, frames, ghostly, text, tiny  # noqa: E402
from tests.runtime.test_policies import call  # noqa: E402
from tests.survey.tiny import tiny_model  # noqa: E402

KINDS = ["lfm2", "qwen3_next"]
CONTEXT, TOKENS = 40, 60


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_is_as_before_after_it_was_cut_back(kind):
    model, ids = tiny_model(kind), text(TOKENS)
    with torch.inference_mode():
        cache = new_cache(model)
        model(ids[:, :CONTEXT], cache=cache)
        aside, untouched = kept_aside(cache), copy.deepcopy(cache)
        for _ in range(2):
            model(text(7, seed=3), cache=cache)
            cut_back(cache, CONTEXT, aside)
        after = model(ids[:, CONTEXT:], cache=cache).logits
        assert torch.equal(after, model(ids[:, CONTEXT:], cache=untouched).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_every_policy_of_a_continuation_starts_from_the_same_context(kind):
    model = tiny_model(kind)
    with torch.inference_mode():
        own = model(text(TOKENS)).logits[0, CONTEXT:].numpy()
    begun = Continuation(model, text(TOKENS)[0].tolist(), CONTEXT)
    for policy in (identity_policy(model.config), identity_policy(model.config, prefill="sparse")):
        for _ in range(2):
            np.testing.assert_allclose(begun.decode(policy).logits, own, atol=1e-4)
    assert begun.generate(identity_policy(model.config), 6)[0] == begun.generate(begun.dense, 6)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_a_hybrid_are_those_of_plain_decoding(kind):
    model, context, question = ghostly(tiny_model(kind)), list(range(3, 43)), [5, 9, 11]
    dense = Policy("dense", {}, dense_layers=tuple(range(4)))
    with torch.inference_mode():
        set_policy(model, dense)
        cache, said, feed = model(torch.tensor([context]), cache=new_cache(model)).cache, [], question
        for _ in range(6):
            said.append(int(model(torch.tensor([feed]), cache=cache).logits[0, -1].argmax()))
            feed = said[-1:]
    reader = Reader(model, dense, [])
    assert reader.read(context) == len(context)
    for draft in (said, [0] * 6):
        answer = reader.answer(question, draft, 6)
        assert (answer.tokens, answer.forwards) == (said, 6)
    # Another beginning is read anew, the same one is kept.
    assert reader.read([*context[:20], 7]) == 21
    assert reader.read([*context[:20], 7, 8]) == 1


@pytest.mark.parametrize("kind", ["falcon", "gpt_neo", "git", "bloom"])
def test_a_model_that_never_looks_the_attention_up_is_refused_by_name(kind, tmp_path):
    tiny_model(kind).save_pretrained(tmp_path)
    register()
    with pytest.raises(ModelError, match="ForCausalLM"):
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=NAME)


def test_without_a_policy_there_is_no_mask_to_go_on_with(tmp_path):
    model = ghostly(tiny())
    with pytest.raises(ModelError, match="before it has a policy"):
        model(text(20))


@pytest.mark.parametrize("change", ["heads", "kv_heads", "head_dim"])
def test_a_kernel_refuses_shapes_that_it_was_not_fitted_for(change):
    """Its loops take their bounds from the codecs and would read beyond the keys."""
    from dataclasses import replace

    from ghostkv.runtime.policy import ghost_policy

    captures = captured(tiny())
    decider = ghost_policy(frames(captures), -1.0, 4).deciders[0]
    asked = call(captures[0])
    if change == "heads":
        asked = replace(asked, query=asked.query[:, :2])
    elif change == "kv_heads":
        asked = replace(asked, keys=asked.keys[:, :1], values=asked.values[:, :1])
    else:
        asked = replace(asked, query=asked.query[..., :8].copy(), keys=asked.keys[..., :8].copy())
    with pytest.raises(ConfigError, match="fitted for"):
        decider.attend(decider.start(), asked)
