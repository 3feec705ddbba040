"""Answers: drafts change the cost and never the tokens, caches are shared and come out equal."""

from dataclasses import replace

import pytest
import torch

from ghostkv.runtime.answering import Reader
from ghostkv.runtime.ghost_attention import set_policy
from ghostkv.runtime.policy import Policy, identity_policy
from ghostkv.runtime.seated import POOLED, Seated
from ghostkv.selectors import make
from tests.runtime.ghost_fixtures import HEADS, LAYERS, captured, ghostly, tiny
from tests.runtime.test_policies import seated_policy

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
        cache = model(torch.tensor([context]), use_cache=True).cache
        said, feed = [], question
        for _ in range(limit):
            logits = model(torch.tensor([feed]), cache=cache, use_cache=True).logits
            said.append(int(logits[0, -1].argmax()))
            feed = said[-1:]
    return said


@pytest.fixture(scope="module")
def captures():
    return captured(tiny())


@pytest.mark.parametrize("name", ["dense", "quest", "h2o", "snapkv", "streaming_llm", *POOLED])
def test_any_draft_gives_the_tokens_of_plain_greedy_decoding(model, captures, name):
    policy = full() if name == "dense" else seated_policy(name, captures, 0.25)
    expected = step_by_step(model, policy, CONTEXT, QUESTION, LIMIT)
    wrong = [(token + 1) % 128 for token in expected]
    drafts = {
        "right": expected, "none": [], "wrong": wrong, "half": expected[:4] + wrong[4:],
        "a slip": [*expected[:2], wrong[2], *expected[3:]],
    }  # fmt: skip
    reader, forwards, traffic = Reader(model, full(), []), {}, {}
    for kind, draft in drafts.items():
        reader.read(CONTEXT, policy)
        answer = reader.answer(QUESTION, draft, LIMIT, policy)
        assert answer.tokens == expected, kind
        forwards[kind], traffic[kind] = answer.forwards, answer.traffic
    # Where what is read depends on all that is fed at once, nothing is fed on trial.
    assert forwards["right"] == LIMIT if name in POOLED else forwards["right"] <= 2 < forwards["none"]
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


def test_a_page_that_reaches_beyond_the_hot_window_gets_no_draft(model):
    """Its box would hold keys of the draft."""
    for hot, expected in ((4, LIMIT), (8, 1)):
        policy = replace(quest(), hot=hot)
        said = step_by_step(model, policy, CONTEXT, QUESTION, LIMIT)
        reader = Reader(model, full(), [])
        reader.read(CONTEXT, policy)
        answer = reader.answer(QUESTION, said, LIMIT, policy)
        assert (answer.tokens, answer.forwards) == (said, expected)


def test_an_observer_answers_alike_when_everything_is_read_under_it(model, captures):
    policy = replace(seated_policy("h2o", captures, 0.3), prefill="sparse")
    answers = []
    for draft in ([], list(range(20, 20 + LIMIT))):
        reader = Reader(model, full(prefill="sparse"), [])
        reader.read([], policy)
        answers.append(reader.answer(CONTEXT + QUESTION, draft, LIMIT, policy).tokens)
    assert answers[0] == answers[1]
