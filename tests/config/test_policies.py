"""Policies of a config: what would fail after hours is refused when it is read."""

from __future__ import annotations

from dataclasses import fields

import pytest

from ghostkv.config.experiment import load_config
from ghostkv.config.selectors import selector_names
from ghostkv.config.policies import COMMON, OPTIONS, check_policy, selector_options
from ghostkv.config.quality import Quality
from ghostkv.config.retrieval import Retrieval
from ghostkv.files.errors import ConfigError
from ghostkv.selectors import make

FAULTS = {
    # name: (entry, what the message must say)
    "unknown selector": (
        {"policy": "selector", "selector": {"name": "telepathy"}, "ratio": 0.2},
        ["mine", "'telepathy'", "quest, snapkv", "Write: selector: {name: "],
    ),
    "selector by its bare name": (
        {"policy": "selector", "selector": "quest", "ratio": 0.2},
        ["'quest', not a mapping", "Write: selector: {name: quest}, ratio: 0.2"],
    ),
    "selector that is missing": ({"policy": "selector", "ratio": 0.2}, ["the selector None", "Write: selector:"]),
    "selector without bytes": ({"policy": "selector", "selector": {"name": "quest"}}, ["no ratio", "Write: ratio:"]),
    "selector's option": (
        {"policy": "selector", "selector": {"name": "quest", "pages": 8}, "ratio": 0.2},
        ["quest with pages: 8", "Accepted: page.", "Did you mean `page`? Write: page: 8"],
    ),
    "selector without options": (
        {"policy": "selector", "selector": {"name": "streaming_llm", "window": 8}, "ratio": 0.2},
        ["streaming_llm with window: 8", "Accepted: none", "Remove it"],
    ),
    "misspelt option": ({"policy": "ghost", "ratoi": 0.2}, ["ratoi: 0.2", "Write: ratio: 0.2"]),
    "option of another kind": (
        {"policy": "ghost", "ratio": 0.2, "delta": 0.1},
        ["(policy: ghost) has delta: 0.1", "Accepted: policy, ratio, theta, codec, code_bytes"],
    ),
    "no budget": ({"policy": "ghost"}, ["neither ratio nor theta", "Write: ratio: 0.3"]),
    "two budgets": ({"policy": "ghost", "ratio": 0.2, "theta": 1.0}, ["both ratio and theta"]),
    "ratio of no share": ({"policy": "ghost", "ratio": 20}, ["ratio: 20", "at most 1", "Write: ratio: 0.3"]),
    "ratio that is no number": ({"policy": "ghost", "ratio": "much"}, ["ratio: much", "Write: ratio: 0.3"]),
    "flag that is none": ({"policy": "ghost", "ratio": 0.2, "compensate": 1}, ["compensate: 1", "true or false"]),
    "no hot window": ({"policy": "ghost", "ratio": 0.2, "hot": 0}, ["hot: 0", "at least 1", "Write: hot: 64"]),
    "one layer": ({"policy": "identity", "dense_layers": 3}, ["dense_layers: 3", "Write: dense_layers: [0, 1]"]),
    "codec": ({"policy": "identity", "codec": "pcaa"}, ["codec: pcaa", "whitened", "Write: codec: transform_code"]),
    "prefill": ({"policy": "identity", "prefill": "half"}, ["prefill: half", "dense or sparse"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_what_to_write(fault):
    entry, expected = FAULTS[fault]
    with pytest.raises(ConfigError) as caught:
        check_policy({"label": "mine", **entry}, "quality.policies")
    for part in ("config: quality.policies mine", *expected):
        assert part in str(caught.value)


def test_options_are_those_of_load_policy():
    load_policy = pytest.importorskip("ghostkv.runtime.load_policy")
    assert load_policy._OPTIONS == OPTIONS
    assert set(load_policy._COMMON) == {"policy", *COMMON}
    assert set(load_policy.KINDS) == set(OPTIONS)


@pytest.mark.parametrize("name", selector_names())
def test_hyperparameters_are_those_of_the_selector(name):
    _, selector = make({"name": name})
    assert selector_options(name) == tuple(field.name for field in fields(selector))


def test_all_options_pass():
    check_policy(
        {
            "label": "all", "policy": "certified_mass", "delta": 0.01, "compensate": False, "levels": [1.0, 2], "shares": [0.1, 0.9],
            "dense_layers": [0], "sinks": 0, "hot": 1, "prefill": "sparse", "shared": False, "positions": 3,
        },
        "quality.policies",
        own=("positions",),
    )  # fmt: skip
    check_policy({"policy": "ghost", "theta": float("-inf")}, "x")


@pytest.mark.parametrize("section", [Quality, Retrieval])
def test_default_policies_pass(section):
    for entry in section().policies:
        check_policy(entry.plain(), "x", own=("positions", "tasks", "lengths", "contexts"))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"policy": "selector", "selector": {"name": "telepathy"}, "ratio": 0.2}, "telepathy"),
        ({"policy": "ghost", "ratoi": 0.2}, "Write: ratio: 0.2"),
        # The section says it for all policies.
        ({"policy": "ghost", "ratio": 0.2, "prefill": "sparse"}, "prefill: sparse, which is no option"),
    ],
)
def test_retrieval_refuses_them_when_the_config_is_read(policy, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config({"retrieval": {"policies": [{"label": "mine", **policy}]}})
