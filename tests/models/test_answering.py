"""Answers: drafts change the cost and never the tokens, caches are shared and come out equal."""

import pytest
import torch

from ghostkv.models.answering import Reader
from ghostkv.models.ghost_attention import set_policy
from ghostkv.models.policy import Policy, identity_policy
from ghostkv.seated import Seated
from ghostkv.selectors import make
from tests.models.ghost_fixtures import HEADS, LAYERS, ghostly, tiny

CONTEXT, QUESTION, LIMIT = list(range(3, 103)), [5, 9, 11, 7], 10


@pytest.fixture(scope="module")
def model():
    return ghostly(tiny())


def full(**options):
    return Policy("dense", {}, dense_layers=tuple(range(LAYERS)), **options)


def quest():
    name, selector = make({"name": "quest", "page": 8})
    return Policy(
        "quest", {layer: Seated(selector, [None, None], 0.4, name, {}) for layer in range(LAYERS)}, hot=8
    )


def step_by_step(model, policy, context, question, limit):
    """Plain greedy decoding, a token a forward pass after the question."""
    set_policy(model, policy)
    with torch.inference_mode():
        cache = model(torch.tensor([context]), use_cache=True).past_key_values
        said, feed = [], question
        for _ in range(limit):
            logits = model(torch.tensor([feed]), past_key_values=cache, use_cache=True).logits
            said.append(int(logits[0, -1].argmax()))
            feed = said[-1:]
    return said


@pytest.mark.parametrize("policy", [full(), quest()], ids=["dense", "quest"])
def test_any_draft_gives_the_tokens_of_plain_greedy_decoding(model, policy):
    expected = step_by_step(model, policy, CONTEXT, QUESTION, LIMIT)
    wrong = [(token + 1) % 128 for token in expected]
    drafts = {
        "right": expected, "none": [], "wrong": wrong, "half": expected[:4] + wrong[4:],
        "a slip": [*expected[:2], wrong[2], *expected[3:]],
    }  # fmt: skip
    reader, forwards, traffic = Reader(model, full(), []), {}, {}
    for name, draft in drafts.items():
        reader.read(CONTEXT, policy)
        answer = reader.answer(QUESTION, draft, LIMIT, policy)
        assert answer.tokens == expected, name
        forwards[name], traffic[name] = answer.forwards, answer.traffic
    assert forwards["right"] <= 2 < forwards["none"]
    # What a wrong draft read is not counted: it would not have been read.
    assert traffic["wrong"]["full"] == pytest.approx(traffic["none"]["full"])
    assert traffic["wrong"]["survivors"] == pytest.approx(traffic["none"]["survivors"])


def test_a_stop_token_and_enough_end_an_answer(model):
    expected = step_by_step(model, full(), CONTEXT, QUESTION, LIMIT)
    reader = Reader(model, full(), [expected[3]])
    reader.read(CONTEXT)
    assert reader.answer(QUESTION, expected, LIMIT).tokens == expected[: expected.index(expected[3])]
    free = Reader(model, full(), [])
    free.read(CONTEXT)
    assert free.answer(QUESTION, [], LIMIT, enough=lambda tokens: len(tokens) == 2).tokens == expected[:2]


def test_a_shared_beginning_is_computed_once_and_changes_nothing(model):
    other = [*CONTEXT[:60], *range(20, 60)]
    reader = Reader(model, full(), [])
    assert reader.read(CONTEXT) == len(CONTEXT)
    reader.answer(QUESTION, [1, 2], LIMIT, quest())
    assert reader.read(CONTEXT) == 0
    assert reader.read(other) == len(other) - 60
    assert reader.answer(QUESTION, [], LIMIT).tokens == step_by_step(model, full(), other, QUESTION, LIMIT)


def test_all_sparse_reads_the_context_under_the_policy(model):
    identity = identity_policy(model.config, prefill="sparse")
    reader = Reader(model, full(prefill="sparse"), [])
    reader.read([], identity)
    answer = reader.answer(CONTEXT + QUESTION, [], LIMIT, identity)
    assert answer.tokens == step_by_step(model, full(), CONTEXT, QUESTION, LIMIT)
    assert answer.traffic["head_full"] >= HEADS * len(CONTEXT)
