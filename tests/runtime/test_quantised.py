"""A quantised cache in the model's seat: each query reads what the server would hold when it comes, and pays for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from ghostkv.config.policies import GhostPolicy, QuantisedPolicy  # noqa: E402
from ghostkv.files.errors import ConfigError  # noqa: E402
from ghostkv.quantised.by_name import CACHE_TYPES  # noqa: E402
from ghostkv.quantised.floats import Fp8, Fp16  # noqa: E402
from ghostkv.quantised.integers import Integers  # noqa: E402
from ghostkv.quantised.kivi import Kivi  # noqa: E402
from ghostkv.runtime.ghost_attention import set_policy  # noqa: E402
from ghostkv.runtime.ghost_decider import GhostDecider, GhostFrames  # noqa: E402
from ghostkv.runtime.load_policy import Sources, load_policy  # noqa: E402
from ghostkv.runtime.policy_fit import fit_theta  # noqa: E402
from ghostkv.runtime.quantised import OverCache, WholeCache  # noqa: E402
from ghostkv.runtime.traffic import COLUMNS, made  # noqa: E402
from tests.runtime.ghost_fixtures import (  # noqa: E402
    CONTEXT,
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    block,
    captured,
    fitted,
    ghostly,
    stepwise,
    text,
    tiny,
)
from tests.runtime.test_policies import SMALL, call  # noqa: E402

KINDS = {"int3": Integers(3, 8), "fp8": Fp8(), "kivi": Kivi(residual=64)}
PAIR = 4 * HEAD_DIM


@pytest.fixture(scope="module")
def captures():
    return captured(tiny())


def read_by(kind, capture, h: int, tokens: int) -> tuple[np.ndarray, np.ndarray, float]:
    """K and V of a KV head as a query reads them that sees so many tokens, and their bytes, one token after the other."""
    keys, values = (one[h, :tokens].astype(np.float32) for one in (capture.keys, capture.values))
    hats, size = kind.write(keys, values), 0.0
    begun = kind.kept(np.array(tokens))
    read = []
    for number, (own, hat, begin) in enumerate(zip((keys, values), hats, begun, strict=True)):
        rows = []
        for token in range(tokens):
            exact = token < 2 or token >= tokens - 8 or token >= begin
            rows.append(own[token] if exact else hat[token])
            widths = (HEAD_DIM, 0) if number == 0 else (0, HEAD_DIM)
            size += PAIR / 2 if exact else kind.pair_bytes(*widths)
        read.append(np.array(rows, np.float64))
    return *read, size


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_cache_gives_attention_over_what_is_held_then(captures, name):
    kind, capture = KINDS[name], captures[1]
    decider, some = WholeCache(kind), call(captures[1])
    out, rows = decider.attend(decider.start(), some)
    group = HEADS // KV_HEADS
    for t in (0, 3, 25, 39):
        tokens, size = CONTEXT + t + 1, 0.0
        for h in range(KV_HEADS):
            keys, values, own = read_by(kind, capture, h, tokens)
            size += own
            for head in range(h * group, (h + 1) * group):
                logits = capture.scale * keys @ some.query[0, head, t].astype(np.float64)
                mass = np.exp(logits - logits.max())
                wanted = mass @ values / mass.sum()
                assert np.abs(out[0, t, head] - wanted).max() < 2e-5 * np.abs(wanted).max()
        row = dict(zip(COLUMNS, rows[t], strict=False))
        assert row["survivor_bytes"] + row["hot"] == pytest.approx(size)
        assert row["records"] == 0
        assert row["full"] == KV_HEADS * tokens * PAIR


@pytest.mark.parametrize("name", KINDS)
def test_step_by_step_is_what_a_block_gives(captures, name):
    policy = load_policy(QuantisedPolicy(cache="int4", label="int4", sinks=2, hot=8), _sources(captures))
    policy = replace(policy, deciders={one.layer: WholeCache(KINDS[name]) for one in captures})
    model = ghostly(tiny())
    traffic = set_policy(model, policy)
    logits = block(model, text())
    ratio = traffic.summary()["bytes_ratio_gqa"]
    traffic.reset()
    assert (stepwise(model, text()) - logits).abs().max() < 1e-3
    assert traffic.summary()["bytes_ratio_gqa"] == pytest.approx(ratio)
    assert traffic.summary()["elimination"] == 0
    assert ratio < 1


def _sources(captures) -> Sources:
    return Sources([one.layer for one in captures], HEADS, HEAD_DIM)


def test_more_bits_say_more_nearly_what_the_model_says(captures):
    model, ids, sources = tiny(), text(), _sources(captures)
    with torch.inference_mode():
        own = model(ids).logits[:, CONTEXT:]
    ghostly(model)
    far, read = [], []
    for name in ("int3", "int4", "int6", "int8"):
        traffic = set_policy(model, load_policy(QuantisedPolicy(cache=name, **SMALL), sources))
        far.append(float((block(model, ids) - own).abs().max()))
        read.append(traffic.summary()["bytes_ratio_gqa"])
    assert far == sorted(far, reverse=True)
    assert far[0] > 20 * far[-1]
    # Group of 32 channels, of which a head here has 16, and 10 of some 140 tokens in fp16.
    for found, bits in zip(read, (5, 6, 8, 10), strict=True):
        assert found == pytest.approx(bits / 16 * 130.5 / 140.5 + 10 / 140.5, abs=1e-3)


@pytest.mark.parametrize("kind", [Fp8(), Integers(4, 16)], ids=["fp8", "int4"])
def test_records_over_a_cache_are_of_what_was_written_and_so_are_survivors(captures, kind):
    """By hand: one query after the other, of which only sinks and hot window are exact."""
    capture, some = captures[1], call(captures[1])
    ghosts = GhostDecider(GhostFrames.of(fitted(capture)), np.full(HEADS, -4.0, np.float32))
    over = OverCache(ghosts, kind)
    out, rows = over.attend(over.start(), some)
    written = [
        np.stack([kind.write(k, v)[place] for k, v in zip(some.keys[0], some.values[0], strict=True)])[None]
        for place in (0, 1)
    ]
    share, rows = kind.pair_bytes(HEAD_DIM, HEAD_DIM) / PAIR, made(rows)
    for t in (0, 7, 39):
        stop = CONTEXT + t + 1
        state, seen = ghosts.start(), [one[:, :, :stop].copy() for one in written]
        single = replace(some, query=some.query[:, :, t : t + 1].copy(), past=stop - 1)
        ghosts.remember(state, replace(single, keys=seen[0].copy(), values=seen[1]))
        for held, own in zip(seen, (some.keys, some.values), strict=True):
            for where in (slice(0, 2), slice(stop - 8, stop)):
                held[:, :, where] = own[:, :, where]
        wanted, counted = ghosts.attend(state, replace(single, keys=seen[0], values=seen[1]))
        assert np.abs(out[:, t] - wanted[:, 0]).max() < 1e-5 * np.abs(wanted).max()
        for number, name in enumerate(COLUMNS):
            times = share if name.removeprefix("head_") == "survivor_bytes" else 1.0
            assert np.isclose(rows[t, number], made(counted)[0, number] * times), name


def test_a_budget_over_a_cache_is_of_full_fp16(captures):
    """At one theta, survivors cost half in fp8: the same bytes afford a lower one."""
    layers = [([one], fitted(one)) for one in captures]
    fixed = {"sinks": 2, "hot": 8, "start": CONTEXT}
    full, half = (fit_theta(layers, [0.6], cache=kind, **fixed)[0.6] for kind in (Fp16(), Fp8()))
    assert half < full
    least = fit_theta(layers, [0.45], cache=Fp8(), **fixed)[0.45]
    counted = []
    for one in captures:
        decider = OverCache(
            GhostDecider(GhostFrames.of(fitted(one)), np.full(HEADS, least, np.float32), per_key=True), Fp8()
        )
        rows = dict(
            zip(COLUMNS, made(decider.attend(decider.start(), call(one))[1]).sum(axis=0), strict=False)
        )
        counted.append((rows["records"] + rows["survivor_bytes"] + rows["hot"], rows["full"]))
    read, whole = np.sum(counted, axis=0)
    assert read / whole == pytest.approx(0.45, abs=0.02)


def test_only_types_that_write_token_by_token_lie_under_records():
    accepted = {name for name, kind in CACHE_TYPES.items() if kind.together == 1}
    for name in CACHE_TYPES:
        entry = {"policy": "ghost", "theta": 0.0, "cache": name}
        if name in accepted:
            assert GhostPolicy(**entry).cache == name
        else:
            with pytest.raises(ValueError, match="cache"):
                GhostPolicy(**entry)
    with pytest.raises(ConfigError, match="dense_layers"):
        GhostPolicy(theta=0.0, cache="int4", dense_layers=[0])
