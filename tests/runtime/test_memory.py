"""What a policy remembers belongs to the cache: whatever is done to it, logits are the undisturbed path's, or refused."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import DynamicCache  # noqa: E402

from ghostkv.files.errors import ModelError  # noqa: E402
from ghostkv.quantised.integers import Integers  # noqa: E402
from ghostkv.quantised.kivi import Kivi  # noqa: E402
from ghostkv.runtime.continuation import Continuation  # noqa: E402
from ghostkv.runtime.ghost_attention import NAME, dense_attention, set_policy  # noqa: E402
from ghostkv.runtime.policy import Policy, ghost_policy, identity_policy  # noqa: E402
from ghostkv.runtime.quantised import OverCache, WholeCache  # noqa: E402
from ghostkv.runtime.seated import UNDO, OracleMass  # noqa: E402
from tests.runtime.ghost_fixtures import HEADS, captured, frames, ghostly, text, tiny  # noqa: E402
from tests.runtime.test_policies import SMALL  # noqa: E402
from tests.runtime.test_seated import policy_of  # noqa: E402

OBSERVERS = ("h2o", "snapkv")
KINDS = (
    "identity", "ghost", "certified_mass", "partly_dense", "oracle_mass", "quest", "kivi", "ghost_over_cache", *OBSERVERS,
)  # fmt: skip
# A budget over the queries of a call, and records by row: what is compared comes in the same calls.
POOLED = "pooled"
# Tokens of the prompt, of a first stretch that is decoded, and of the stretch whose logits are compared.
PROMPT, BEGUN, THEN = 70, 9, 6
BATCH = torch.cat([text(seed=5), text(seed=6), text(seed=7)])


@pytest.fixture(scope="module")
def model():
    return ghostly(tiny())


@pytest.fixture(scope="module")
def policies():
    found = captured(tiny())
    made = {
        "identity": identity_policy(tiny().config, **SMALL),
        "ghost": ghost_policy(frames(found), -4.0, HEADS, **SMALL),
        "oracle_mass": Policy("oracle_mass", {one.layer: OracleMass(0.3) for one in found}, **SMALL),
    }
    # Many bits: where a number lies between two codes, what float32 rounds otherwise flips it.
    made["kivi"] = Policy(
        "kivi", {one.layer: WholeCache(Kivi(bits=14, residual=32)) for one in found}, **SMALL
    )
    over = {layer: OverCache(one, Integers(14, 16)) for layer, one in made["ghost"].deciders.items()}
    made["ghost_over_cache"] = replace(made["ghost"], deciders=over)
    made["partly_dense"] = policy_of("certified_mass", found).leaving_dense({0: [1], 1: [0]})
    made[POOLED] = policy_of("ghost", found)
    return {name: made.get(name) or policy_of(name, found) for name in (*KINDS, POOLED)}


@torch.inference_mode()
def fed(model, ids, cache=None):
    """Logits of a call, and the cache."""
    out = model(ids, cache=DynamicCache() if cache is None else cache, use_cache=True)
    return out.logits, out.cache


def begun(model, ids):
    """A cache after the prompt and a few decoded tokens."""
    _, cache = fed(model, ids[:, :PROMPT])
    return fed(model, ids[:, PROMPT : PROMPT + BEGUN], cache)[1]


def rest(ids):
    return ids[:, PROMPT + BEGUN : PROMPT + BEGUN + THEN]


@pytest.fixture(scope="module")
def undisturbed(model, policies):
    """Logits of the last stretch by kind of policy, three rows together."""
    found = {}
    for kind in (*KINDS, POOLED):
        set_policy(model, policies[kind])
        found[kind] = fed(model, rest(BATCH), begun(model, BATCH))[0]
    return found


CHANGES = {
    "another order": (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 1])), [2, 0, 1]),
    "the same order": (lambda cache: cache.reorder_cache(torch.arange(3)), [0, 1, 2]),
    "one beam wins": (lambda cache: cache.reorder_cache(torch.tensor([1, 1, 0])), [1, 1, 0]),
    "repeated": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    "selected": (lambda cache: cache.batch_select_indices(torch.tensor([2, 0])), [2, 0]),
    "masked": (lambda cache: cache.batch_select_indices(torch.tensor([True, False, True])), [0, 2]),
}


@pytest.mark.parametrize("kind", [*KINDS, POOLED])
def test_rows_and_copies_take_what_is_known_of_them_along(model, policies, undisturbed, kind):
    set_policy(model, policies[kind])
    original = begun(model, BATCH)
    for name, (change, rows) in CHANGES.items():
        cache = copy.deepcopy(original)
        change(cache)
        logits = fed(model, rest(BATCH[rows]), cache)[0]
        assert (logits - undisturbed[kind][rows]).abs().max() < 1e-4, name
    # What the copies read went into no original.
    assert (fed(model, rest(BATCH), original)[0] - undisturbed[kind]).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_cut_off_was_never_there(model, policies, undisturbed, kind):
    set_policy(model, policies[kind])
    ids, expected = BATCH[:1], undisturbed[kind][:1]
    cache = begun(model, ids)
    # As assisted decoding does: every draft is longer than what is kept of it.
    for wrong in (1, 4, UNDO):
        fed(model, text(wrong, seed=wrong), cache)
        cache.crop(-wrong)
    at_once = copy.deepcopy(cache)
    single = []
    for t in range(THEN):
        _, cache = fed(model, torch.cat([rest(ids)[:, t : t + 1], text(3, seed=t)], dim=1), cache)
        cache.crop(-4)
        logits, cache = fed(model, rest(ids)[:, t : t + 1], cache)
        single.append(logits)
    assert (torch.cat(single, dim=1) - expected).abs().max() < 1e-4
    assert (fed(model, rest(ids), at_once)[0] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", [*KINDS, POOLED])
@pytest.mark.parametrize("pieces", [(1, 40, 29), (7,) * 10])
def test_a_prompt_is_the_same_in_any_number_of_pieces(model, policies, undisturbed, kind, pieces):
    set_policy(model, policies[kind])
    cache, start = DynamicCache(), 0
    with dense_attention(model):
        for piece in pieces:
            fed(model, BATCH[:, start : start + piece], cache)
            start += piece
    fed(model, BATCH[:, PROMPT : PROMPT + BEGUN], cache)
    assert (fed(model, rest(BATCH), cache)[0] - undisturbed[kind]).abs().max() < 1e-4


@pytest.mark.parametrize("prefill", ["dense", "sparse"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_may_begin_with_pieces_that_are_padding_alone(model, policies, kind, prefill):
    set_policy(model, replace(policies[kind], prefill=prefill))
    padding, ids = 9, BATCH[:2, :PROMPT].clone()
    mask = torch.ones_like(ids)
    ids[0, :padding] = mask[0, :padding] = 0
    options = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "output_logits": True}
    whole = model.generate(ids, return_dict_in_generate=True, **options)
    # Two pieces, and a part of the third.
    pieces = model.generate(ids, return_dict_in_generate=True, prefill_chunk_size=4, **options)
    difference = torch.stack(whole.logits) - torch.stack(pieces.logits)
    assert difference.abs().max() < 1e-4


@pytest.mark.parametrize("bias", [-0.5, 0.5, -100.0, float("nan")])
@pytest.mark.parametrize("kind", ["ghost", "certified_mass"])
def test_a_mask_that_biases_scores_is_no_padding(model, policies, kind, bias):
    set_policy(model, policies[kind])
    ids = BATCH[:1]
    shown = torch.ones(THEN, PROMPT + BEGUN + THEN).tril(PROMPT + BEGUN).bool()[None, None]
    mask = torch.zeros(shown.shape).masked_fill(~shown, torch.finfo(torch.float32).min)
    expected = fed(model, rest(ids), begun(model, ids))[0]
    with torch.inference_mode():
        found = model(rest(ids), cache=begun(model, ids), attention_mask=mask).logits
        assert (found - expected).abs().max() < 1e-4
        with pytest.raises(ModelError, match="attention mask"):
            model(rest(ids), cache=begun(model, ids), attention_mask=mask + bias)


@pytest.mark.parametrize("kind", KINDS)
def test_what_other_hands_did_to_a_cache_is_seen(model, policies, kind):
    """Another policy, other attention, or keys exchanged: records are written anew, observations are missed."""

    def other_policy(cache):
        set_policy(model, policies["quest" if kind == "identity" else "identity"])
        fed(model, text(3, seed=1), cache)
        cache.crop(-3)

    def other_attention(cache):
        model.set_attn_implementation("sdpa")
        fed(model, BATCH[:1, PROMPT : PROMPT + 2], cache)
        model.set_attn_implementation(NAME)
        cache.crop(-2)
        fed(model, BATCH[:1, PROMPT : PROMPT + 2], cache)
        cache.crop(-2)

    def unseen(cache):
        model.set_attn_implementation("sdpa")
        fed(model, text(2, seed=1), cache)
        model.set_attn_implementation(NAME)

    def evicted(cache):
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, 10:], layer.values[:, :, 10:]

    def exchanged(cache):
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys.flip(2), layer.values.flip(2)

    for change in (other_policy, unseen, evicted, exchanged, other_attention):
        set_policy(model, policies[kind])
        cache = begun(model, BATCH[:1])
        change(cache)
        set_policy(model, policies[kind])
        bare = DynamicCache()
        for number, layer in enumerate(cache.layers):
            bare.update(layer.keys, layer.values, number)
        ids = rest(BATCH[:1])
        if kind in OBSERVERS and change is not other_attention:
            with pytest.raises(ModelError, match="read the prompt again"):
                fed(model, ids, cache)
        else:
            logits = fed(model, ids, cache)[0]
            if kind not in OBSERVERS:
                assert (logits - fed(model, ids, bare)[0]).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_loops_of_generate_say_what_a_plain_one_says(model, policies, kind):
    set_policy(model, policies[kind])
    # Repetitive, so that lookups find something; what follows is looked up, too.
    ids = text(12, seed=3).repeat(1, 6)
    plain = {"max_new_tokens": 14, "do_sample": False}
    whole = model.generate(ids, **plain)
    assert torch.equal(model.generate(ids, prefill_chunk_size=9, **plain), whole)
    assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=4, **plain), whole)
    assert torch.equal(model.generate(ids, assistant_model=tiny(), **plain), whole)
    assert torch.equal(model.generate(ids, use_cache=False, **plain), whole)
    # A beam is worth what its tokens are worth when they are read one after the other.
    beams = model.generate(
        ids, num_beams=2, num_return_sequences=2, length_penalty=0.0, output_scores=True,
        return_dict_in_generate=True, max_new_tokens=5, do_sample=False,
    )  # fmt: skip
    for one, score in zip(beams.sequences, beams.sequences_scores, strict=True):
        first, cache = fed(model, ids)
        later = fed(model, one[None, ids.shape[1] : -1], cache)[0]
        said = torch.cat([first[:, -1:], later], dim=1)[0].log_softmax(-1)
        worth = said.gather(1, one[ids.shape[1] :, None]).sum()
        assert float(worth) == pytest.approx(float(score), abs=1e-3)


def test_threads_do_not_meet(policies):
    model = ghostly(tiny())
    for kind in ("ghost", "snapkv"):
        set_policy(model, policies[kind])
        prompts = [text(40 + 7 * n, seed=n) for n in range(6)]
        alone = [model.generate(ids, max_new_tokens=8, do_sample=False) for ids in prompts]
        found, start = {}, threading.Barrier(3)

        def work(who, prompts=prompts, found=found, start=start):
            start.wait()
            for n in range(who, 6, 3):
                found[n] = model.generate(prompts[n], max_new_tokens=8, do_sample=False)

        threads = [threading.Thread(target=work, args=(who,)) for who in range(3)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert [torch.equal(found[n], alone[n]) for n in range(6)] == [True] * 6


def test_a_dense_stretch_is_one_threads_own(policies):
    model, seen = ghostly(tiny()), {}
    traffic = set_policy(model, policies["ghost"])
    ids = BATCH[:1]

    def elsewhere():
        fed(model, rest(ids), begun(model, ids))
        seen["queries"] = traffic.summary()["queries"]

    with dense_attention(model):
        fed(model, rest(ids), begun(model, ids))
        assert traffic.summary()["queries"] == 0
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert seen["queries"] == 2 * (BEGUN + THEN)


@pytest.mark.parametrize("kind", ["ghost", "snapkv"])
@pytest.mark.parametrize(
    "name", ["dynamic", "static", "offloaded", "offloaded_static", "hybrid", "quantized", "paged"]
)
def test_every_kind_of_cache_is_right_or_refused(model, policies, kind, name):
    set_policy(model, policies[kind])
    ids = BATCH[:1, :PROMPT]
    whole = model.generate(ids, max_new_tokens=6, do_sample=False)
    options = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": name}
    if name == "dynamic":
        assert torch.equal(model.generate(ids, **options), whole)
    else:
        with pytest.raises(ModelError, match=f"cache_implementation is '{name}'"):
            model.generate(ids, **options)


def test_a_model_that_has_its_own_attention_again_takes_its_own_caches(policies):
    model, plain = tiny(), {"max_new_tokens": 4, "do_sample": False}
    own = model.generate(BATCH[:1, :20], **plain)
    set_policy(ghostly(model), policies["ghost"])
    model.set_attn_implementation("sdpa")
    assert torch.equal(model.generate(BATCH[:1, :20], cache_implementation="static", **plain), own)


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_windows_that_slide_stay_dense_under_observers_too(policies, family):
    model, ids = tiny(family), text()
    observer = policies["snapkv"]
    with pytest.warns(UserWarning, match="sliding window"):
        begun = Continuation(model, ids[0].tolist(), 120, observer)
    decoded = begun.decode(observer)
    assert np.isfinite(decoded.logits).all()
    assert (np.abs(decoded.logits - begun.own()).max() < 1e-4) == (family == "mistral")
    plain = {"max_new_tokens": 8, "do_sample": False}
    prompt = text(12, seed=3).repeat(1, 5)
    whole = model.generate(prompt, **plain)
    assert torch.equal(model.generate(prompt, prompt_lookup_num_tokens=4, **plain), whole)
    assert torch.equal(model.generate(prompt, prefill_chunk_size=9, **plain), whole)
