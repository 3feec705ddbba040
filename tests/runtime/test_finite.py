"""Attention over what is not a number is refused by layer and head, whoever decides; nothing hangs and nothing is skipped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from ghostkv.files.errors import GhostKVError, ModelError  # noqa: E402
from ghostkv.quantised.floats import Fp8  # noqa: E402
from ghostkv.quantised.kivi import Kivi  # noqa: E402
from ghostkv.runtime.certified import CertifiedMass  # noqa: E402
from ghostkv.runtime.fused_records import write_records  # noqa: E402
from ghostkv.runtime.ghost_attention import set_policy  # noqa: E402
from ghostkv.runtime.ghost_decider import GhostDecider, GhostFrames  # noqa: E402
from ghostkv.runtime.quantised import OverCache, WholeCache  # noqa: E402
from ghostkv.runtime.seated import OracleMass  # noqa: E402
from ghostkv.runtime.traffic import made  # noqa: E402
from tests.runtime.ghost_fixtures import (  # noqa: E402
    CONTEXT,
    HEADS,
    TOKENS,
    block,
    captured,
    fitted,
    ghostly,
    nested,
    text,
    tiny,
)
from tests.runtime.test_policies import FIXED, POOLED, SHARES, call, seated_policy  # noqa: E402

DECIDERS = ("records", "certified_mass", "oracle_mass", "kivi", "over_fp8", *FIXED, *POOLED)
BAD = (np.nan, np.inf, -np.inf, 1e20)


@pytest.fixture(scope="module")
def captures():
    return captured(tiny())


@pytest.fixture(scope="module")
def deciders(captures):
    own = {
        "records": GhostDecider(GhostFrames.of(fitted(captures[1])), np.full(HEADS, -4.0, np.float32)),
        "certified_mass": CertifiedMass(nested(captures[1]), 0.1, SHARES),
        "oracle_mass": OracleMass(0.1),
        "kivi": WholeCache(Kivi()),
    }
    own["over_fp8"] = OverCache(own["records"], Fp8())
    return own | {name: seated_policy(name, captures).decider(1) for name in (*FIXED, *POOLED)}


def decided(decider, some, prompt):
    """The call after its prompt was seen, as the seat would."""
    state = decider.start()
    if decider.observes:
        decider.observe(state, prompt)
    out, rows = decider.attend(state, some)
    return out, made(rows)


@pytest.mark.parametrize("name", DECIDERS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("what", ["query", "keys", "values"])
def test_every_decider_names_layer_and_head(captures, deciders, name, bad, what):
    some, prompt = call(captures[1]), call(captures[1], slice(0, CONTEXT))
    spoiled = getattr(some, what).copy()
    # A query decoded, a key and a value of the prompt.
    spoiled[0, 1, 7] = bad
    with pytest.raises(ModelError, match="layer 1, (KV )?head [123]: the (query|key|value) of token"):
        decided(deciders[name], replace(some, **{what: spoiled}), prompt)


@pytest.mark.parametrize("name", DECIDERS)
def test_a_second_call_finds_what_the_first_had_not_seen(captures, deciders, name):
    early = call(captures[1], slice(CONTEXT, TOKENS - 1))
    late, prompt = call(captures[1], slice(TOKENS - 1, TOKENS)), call(captures[1], slice(0, CONTEXT))
    decider = deciders[name]
    state = decider.start()
    if decider.observes:
        decider.observe(state, prompt)
    decider.attend(state, early)
    late.keys[0, 1, -1, 3] = np.nan
    with pytest.raises(ModelError, match=f"layer 1, KV head 1: the key of token {TOKENS - 1}"):
        decider.attend(state, late)


@pytest.mark.parametrize("name", ["h2o", "snapkv"])
def test_a_prompt_that_is_observed_is_looked_at(captures, deciders, name):
    prompt = call(captures[1], slice(0, CONTEXT))
    prompt.query[0, 2, 50] = np.nan
    with pytest.raises(ModelError, match="layer 1, head 2: the query of token 50"):
        deciders[name].observe(deciders[name].start(), prompt)


@pytest.mark.parametrize("name", DECIDERS)
def test_what_padding_holds_does_not_matter(captures, deciders, name):
    some, prompt = call(captures[1]), call(captures[1], slice(0, CONTEXT))
    first = np.array([9])
    some, prompt = replace(some, first=first), replace(prompt, first=first)
    clean, _ = decided(deciders[name], some, prompt)
    some.keys[0, :, :9], some.values[0, :, :9] = np.nan, np.inf
    prompt.keys[0, :, :9], prompt.query[0, :, :9] = np.nan, np.nan
    again, _ = decided(deciders[name], some, prompt)
    np.testing.assert_array_equal(clean, again)


def test_an_output_that_overflows_is_refused(captures, deciders, monkeypatch):
    def overflow(query, cache, frames, records, rule, out, counts):
        out[...] = 0.0
        out[0, 3, 2, 0] = np.inf

    monkeypatch.setattr("ghostkv.runtime.ghost_decider.ghost_attend", overflow)
    with pytest.raises(ModelError, match=f"layer 1, head 2: the output of token {CONTEXT + 3}"):
        decided(deciders["records"], call(captures[1]), None)


@pytest.mark.parametrize("name", ["snapkv", "h2o", "oracle_topk", "ghost"])
def test_a_model_whose_activations_are_not_finite_is_refused_in_place(captures, name):
    model = ghostly(tiny())
    set_policy(model, seated_policy(name, captures))
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[0, 0] = float("nan")
    with pytest.raises(GhostKVError, match="layer 1, KV head 0: the key"):
        block(model, text())


def test_a_key_that_is_no_number_is_bounded_by_nothing(captures):
    frames = GhostFrames.of(fitted(captures[0])).writing
    keys = np.ascontiguousarray(captures[0].keys[None, :, :8]).astype(np.float32)
    keys[0, 0, 2, 5], keys[0, 1, 4, 0], keys[0, 1, 6] = np.nan, np.inf, 1e30
    coordinates = np.zeros((1, 2, frames.encoder.shape[1], 8), np.float32)
    unbound = np.zeros((1, 2, 8), np.uint8)
    write_records(keys, 0, 8, frames, coordinates, unbound)
    assert np.argwhere(unbound[0]).tolist() == [[0, 2], [1, 4], [1, 6]]
