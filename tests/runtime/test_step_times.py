"""Whole decode steps: every way says the same where nothing is eliminated, and each row belongs to its context and type."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from ghostkv.codecs.field_code import FieldCode  # noqa: E402
from ghostkv.files.errors import ConfigError  # noqa: E402
from ghostkv.runtime import step_times  # noqa: E402
from ghostkv.runtime.ghost_decider import GhostFrames, PackedDecider  # noqa: E402
from ghostkv.runtime.policy import ghost_policy, identity_policy  # noqa: E402
from ghostkv.runtime.step_times import time_steps  # noqa: E402
from tests.runtime.ghost_fixtures import HEADS, TOKENS, captured, text, tiny  # noqa: E402

FAMILIES = ("llama", "mistral", "gemma2")


def packed_policy(model, theta):
    """Field codes fitted on what the model itself attends to."""
    frames = {
        one.layer: GhostFrames.of(
            [FieldCode(8).fit(one.keys[kv], one.group_queries(kv).reshape(-1, one.keys.shape[2])) for kv in range(one.kv_heads)]
        )
        for one in captured(model)
    }  # fmt: skip
    return ghost_policy(frames, theta, HEADS, per_key=True, sinks=2, hot=8)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_ways_say_the_same_where_nothing_is_eliminated(family, monkeypatch):
    model, ids, said = tiny(family), text()[0].tolist(), []
    policy = packed_policy(model, -np.inf)
    assert all(isinstance(one, PackedDecider) for one in policy.deciders.values())
    real = step_times.torch.log_softmax
    monkeypatch.setattr(
        step_times.torch, "log_softmax", lambda *a, **k: said.append(real(*a, **k)) or said[-1]
    )
    before = model.config._attn_implementation
    found = list(time_steps(model, ids, [80, TOKENS], policy, steps=5))
    assert model.config._attn_implementation == before
    assert [(one.dtype, one.context) for one in found] == [("float32", 80), ("float32", TOKENS)]
    ways = list(found[0].seconds)
    assert ("grouped" in ways) == (family != "gemma2")
    # In turns: the model's own, in groups, the policy, and the last over another context.
    for own, *others in zip(*[iter(said)] * len(ways), strict=True):
        assert all(float((own - one).abs().max()) < 1e-4 for one in others[:-1])
        assert float((own - others[-1]).abs().max()) > 1e-2
    for one in found:
        assert {
            len(each) for each in (*one.seconds.values(), *one.cpu_seconds.values(), one.kl, one.same)
        } == {5}
        assert abs(one.kl).max() < 1e-6
        assert one.same.all()
        assert one.read["elimination"] == 0
        assert one.read["queries"] == 5 * 2


def test_types_share_the_context_and_the_policy_eliminates():
    model, ids = tiny(), text()[0].tolist()
    wide, narrow = time_steps(model, ids, [TOKENS], packed_policy(model, 1.0), 4, ("float32", "bfloat16"))
    assert (wide.dtype, narrow.dtype) == ("float32", "bfloat16")
    assert 0.1 < wide.read["elimination"] < 1
    assert narrow.read["elimination"] == pytest.approx(wide.read["elimination"], abs=0.1)
    assert (wide.kl >= 0).all()
    assert wide.kl.max() > 1e-6


def test_contexts_beyond_the_text_or_without_room_for_steps_are_refused():
    model, ids = tiny(), text()[0].tolist()
    for contexts in ([TOKENS + 1], [6, TOKENS]):
        with pytest.raises(ConfigError, match=f"7 to {TOKENS} tokens"):
            list(time_steps(model, ids, contexts, identity_policy(model.config), steps=4))
