"""SparQ's bits per character: its attention against the paper's algorithm taken literally, and the table of a tiny model."""

from __future__ import annotations

import numpy as np
import pytest

from ghostkv.runtime.deciders import Call
from ghostkv.runtime.traffic import COLUMNS
from ghostkv.stages.reproduce.sparq.attention import PublishedSparQ
from ghostkv.stages.reproduce.sparq.characters import ends

HEADS, KV_HEADS, TOKENS, QUERIES, WIDTH, LOCAL = 4, 2, 40, 5, 16, 4


def call(seed=0):
    rng = np.random.default_rng(seed)
    keys, values = (rng.normal(size=(1, KV_HEADS, TOKENS, WIDTH)).astype(np.float32) for _ in range(2))
    query = (3 * rng.normal(size=(1, HEADS, QUERIES, WIDTH))).astype(np.float32)
    return Call(
        query, keys, values, np.zeros(1, np.int64), TOKENS - QUERIES, WIDTH**-0.5, 0.0, 0, LOCAL, True, 0
    )


def literal(call, components, keys):
    """Algorithm 1 for one query at a time, with the sums over a group of appendix C."""
    group, out = HEADS // KV_HEADS, np.zeros((QUERIES, HEADS, WIDTH))
    read = np.zeros((QUERIES, KV_HEADS))
    for position in range(QUERIES):
        seen = call.past + position + 1
        for h in range(KV_HEADS):
            q = call.query[0, h * group : (h + 1) * group, position].astype(float)
            k, v = (each[0, h, :seen].astype(float) for each in (call.keys, call.values))
            largest = np.argsort(-np.abs(q).sum(axis=0))[:components]
            guesses = []
            for one in q:
                temperature = np.sqrt(WIDTH * np.abs(one[largest]).sum() / np.abs(one).sum())
                weights = np.exp(k[:, largest] @ one[largest] / temperature)
                guesses.append(weights / weights.sum())
            ranked = np.sum(guesses, axis=0)
            ranked[-LOCAL:] = np.inf
            best = np.argsort(-ranked)[:keys]
            read[position, h] = len(best)
            for g, one in enumerate(q):
                weights = np.exp(k[best] @ one / np.sqrt(WIDTH))
                alpha = guesses[g][best].sum()
                exact = weights / weights.sum() @ v[best]
                out[position, h * group + g] = alpha * exact + (1 - alpha) * v.mean(axis=0)
    return out, read


@pytest.mark.parametrize("components", [1, 4, WIDTH, 100])
@pytest.mark.parametrize("keys", [LOCAL, 9, TOKENS, 1000])
def test_the_outputs_are_those_of_the_papers_algorithm(components, keys):
    for seed in range(5):
        one = call(seed)
        out, rows = PublishedSparQ(components, keys).attend(PublishedSparQ(components, keys).start(), one)
        wanted, read = literal(one, components, keys)
        np.testing.assert_allclose(out[0], wanted, atol=2e-6)
        counted = dict(zip(COLUMNS, rows.T, strict=False))
        assert counted["united"].tolist() == (read.sum(axis=1) - KV_HEADS * LOCAL).tolist()
        cold = KV_HEADS * (one.past + np.arange(QUERIES) + 1 - LOCAL)
        assert counted["records"].tolist() == (2 * min(components, WIDTH) * cold).tolist()


def test_with_all_components_and_all_keys_it_is_attention():
    one = call()
    out, _ = PublishedSparQ(WIDTH, TOKENS).attend(None, one)
    group = HEADS // KV_HEADS
    for head in range(HEADS):
        scores = one.query[0, head] @ one.keys[0, head // group].T * one.scale
        hidden = np.arange(TOKENS) > one.past + np.arange(QUERIES)[:, None]
        weights = np.exp(np.where(hidden, -np.inf, scores))
        wanted = weights / weights.sum(axis=1, keepdims=True) @ one.values[0, head // group]
        np.testing.assert_allclose(out[0, :, head], wanted, atol=2e-6)


class Letters:
    """A tokenizer of tokens of one to three characters."""

    def decode(self, ids):
        return "".join("abc"[: one % 3 + 1] for one in ids)


@pytest.mark.parametrize(("read", "foretold"), [(20, 10), (1, 1), (500, 10), (500, 500)])
def test_tokens_are_cut_where_the_characters_end(read, foretold):
    ids = list(range(30))  # 60 characters
    first, last = ends(Letters(), ids, read, foretold)
    assert 2 <= first < last <= 30
    if read + foretold <= 60 and read > 3:
        assert 0 <= len(Letters().decode(ids[:first])) - read <= 2
        assert 0 <= len(Letters().decode(ids[:last])) - read - foretold <= 2
