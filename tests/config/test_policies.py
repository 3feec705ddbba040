"""Policies of a config: what would fail after hours is refused when it is read, and nothing is left open."""

from __future__ import annotations

import math

import pytest

from ghostkv.config.certificates import Certificates
from ghostkv.config.experiment import Config, load_config
from ghostkv.config.frontier import Frontier
from ghostkv.config.policies import (
    BRANCHES,
    CertifiedMassPolicy,
    IdentityPolicy,
    SelectorPolicy,
    modules_of,
)
from ghostkv.config.resolved import resolve
from ghostkv.files.errors import ConfigError

QUEST = {"policy": "selector", "selector": {"name": "quest"}, "ratio": 0.2}
FAULTS = {
    # name: (entry, what the message must say)
    "unknown policy": (
        {"policy": "gost"},
        ["policies[0].policy is \"gost\". Accepted: identity, ghost, calibrated", "Write: policy: ghost"],
    ),
    "no policy": ({}, ["policies[0].policy is missing. Accepted: identity, ghost", "Write: policy: identity"]),
    "no label": ({"policy": "identity", "label": None}, ["policies[0].label is null", "Write: label: ghost_030"]),
    "unknown selector": (
        QUEST | {"selector": {"name": "telepathy"}},
        ["policy mine names 'telepathy'", "quest", "Write: {name: "],
    ),
    "selector by its bare name": (
        QUEST | {"selector": "quest"},
        ["selector is \"quest\"", "by name, and its hyperparameters", "Write: selector: {name: quest, page: 16}"],
    ),
    "selector that is missing": ({"policy": "selector", "ratio": 0.2}, ["selector is missing", "Write: selector:"]),
    "selector without bytes": ({"policy": "selector", "selector": {"name": "quest"}}, ["ratio is missing", "Write: ratio:"]),
    "selector's option": (
        QUEST | {"selector": {"name": "quest", "pages": 8}},
        ["quest with pages: 8", "Accepted: page, metadata.", "Did you mean `page`? Write: page: 8"],
    ),
    "selector without options": (
        QUEST | {"selector": {"name": "streaming_llm", "window": 8}},
        ["streaming_llm with window: 8", "Accepted: none", "Remove it"],
    ),
    "misspelt option": ({"policy": "ghost", "ratoi": 0.2}, ["policies[0].ratoi is not a key", "Write: ratio: 0.2"]),
    "option of another kind": (
        {"policy": "ghost", "ratio": 0.2, "delta": 0.1},
        ["policies[0].delta is not a key (value 0.1)", "codec, bits, ratio, theta, compensate"],
    ),
    "no budget": ({"policy": "ghost"}, ["policy mine has neither ratio nor theta", "Write: ratio: 0.3"]),
    "two budgets": ({"policy": "ghost", "ratio": 0.2, "theta": 1.0}, ["both ratio and theta"]),
    "theta of no number": ({"policy": "ghost", "theta": math.nan}, ["theta is NaN", "finite", "Write: theta: 0.0"]),
    "ratio of no share": ({"policy": "ghost", "ratio": 20}, ["policies[0].ratio is 20", "equal to 1", "Write: ratio: 0.3"]),
    "ratio that is no number": ({"policy": "ghost", "ratio": "much"}, ["ratio is \"much\"", "Write: ratio: 0.3"]),
    "flag that is none": ({"policy": "ghost", "ratio": 0.2, "compensate": 1}, ["compensate is 1", "Write: compensate: true"]),
    "no hot window": ({"policy": "ghost", "ratio": 0.2, "hot": 0}, ["hot is 0", "equal to 1", "Write: hot: 64"]),
    "one layer": ({"policy": "identity", "dense_layers": 3}, ["dense_layers is 3", "Write: dense_layers: [0, 1]"]),
    "codec": ({"policy": "identity", "codec": "pcaa"}, ["codec is \"pcaa\"", "'whitened'", "Write: codec: pca"]),
    "levels without shares": ({"policy": "certified_mass", "levels": [2]}, ["a share for each level", "Write: levels: [2, 4]"]),
    "levels wider than a key": (
        {"policy": "certified_mass", "levels": [8, 8], "shares": [0.3, 0.9]}, ["less than 16 bits in all", "Write: levels:"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("section", ["quality", "retrieval"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_what_to_write(fault, section):
    entry, expected = FAULTS[fault]
    with pytest.raises(ConfigError) as caught:
        load_config({section: {"policies": [{"label": "mine", **entry}]}})
    for part in ("config: ", *expected):
        assert part in str(caught.value)


def test_what_the_section_says_for_all_is_no_option_of_one():
    entry = {"label": "mine", "policy": "ghost", "ratio": 0.2, "prefill": "sparse"}
    assert load_config({"quality": only(entry)}).quality.policies[0].prefill == "sparse"
    with pytest.raises(ConfigError, match=r"mine has prefill: sparse.*\n.*Write: prefill: sparse"):
        load_config({"retrieval": {"policies": [entry]}})


def only(entry):
    """A section `quality` of one policy."""
    headline = dict.fromkeys(("identity", "mass", "budget"), entry["label"])
    return {
        "policies": [entry],
        "headline": headline,
        "ablation": {"policy": None},
        "generation": {"policies": []},
    }


def test_an_entry_says_what_was_written():
    entry = {
        "label": "all", "policy": "certified_mass", "dense_layers": [0], "sinks": 0, "hot": 1, "prefill": "sparse",
        "shared": False, "positions": 3, "delta": 0.01, "compensate": False, "levels": [1.0, 2.0], "shares": [0.1, 0.9],
    }  # fmt: skip
    assert load_config({"quality": only(entry)}).quality.policies[0].plain() == entry
    assert IdentityPolicy(hot=3).plain() == {"policy": "identity", "hot": 3}


def test_what_an_entry_leaves_open_is_what_the_config_says():
    """Literals 4, 64 and 0, and levels and shares of their own, once ran in place of these."""
    raw = {
        "frontier": {"sinks": 2, "hot": 16},
        "certificates": {"levels": [2, 4], "shares": [0.3, 0.9]},
        "peers": {"seed": 7},
    }
    config = load_config(raw)
    mass, pq = (
        resolve(entry, config)
        for entry in (CertifiedMassPolicy(), SelectorPolicy(selector={"name": "pq"}, ratio=0.2))
    )
    assert (mass.sinks, mass.hot, mass.levels, mass.shares) == (2, 16, (2.0, 4.0), (0.3, 0.9))
    assert (pq.sinks, pq.hot, pq.seed) == (2, 16, 7)
    own = resolve(CertifiedMassPolicy(hot=8, levels=[3], shares=[0.5]), config)
    assert (own.sinks, own.hot, own.levels, own.shares) == (2, 8, (3.0,), (0.5,))
    for entry in (*config.quality.policies, *config.retrieval.policies):
        found = resolve(entry, config, prefill="sparse")
        assert type(found) in BRANCHES
        assert (found.hot, found.prefill, found.label) == (16, "sparse", entry.label)


def test_the_default_config_decides_what_the_literals_decided():
    frontier, certificates = Frontier(), Certificates()
    assert (frontier.sinks, frontier.hot, Config().peers.seed) == (4, 64, 0)
    assert certificates.levels == [1, 1, 1, 1, 2, 2]
    assert certificates.shares == [0.002, 0.01, 0.03, 0.1, 0.35, 0.97]


@pytest.mark.parametrize(
    ("entry", "raw", "expected"),
    [
        (
            {"policy": "calibrated", "bits": 0.5},
            {},
            r"transform_code at 0\.5 bits.*\n.*Write: codec: transform_code, bits: 1 ",
        ),
        ({"policy": "calibrated", "codec": "pca"}, {}, r"thetas of pca at 1 bits"),
        (
            {"policy": "oracle_mass", "dense_layers": [3, 30]},
            {},
            r"the model has 30 layers.*\n.*Write: dense_layers: \[3\]",
        ),
        (
            {"policy": "calibrated", "target": 0.02},
            {},
            r"target: 0.02.*\n.*dropped_mass: \[0.01, 0.02, 0.05\]",
        ),
        (
            {"policy": "calibrated"},
            {"frontier": {"rules": {"relative_lse": None}}},
            r"relative_lse, which frontier\.rules leaves out",
        ),
    ],
)
def test_what_no_earlier_stage_makes_is_refused_before_any_runs(entry, raw, expected):
    mine = {"label": "mine", **entry}
    with pytest.raises(ConfigError, match=expected):
        load_config({"quality": only(mine), **raw}).check_policies("quality", 30)
    with pytest.raises(ConfigError, match=expected):
        load_config({"retrieval": {"policies": [mine]}, **raw}).check_policies("retrieval", 30)


def test_modules_that_policies_find_by_name():
    assert modules_of(Config().retrieval.policies) == (
        "ghostkv.codecs.base",
        "ghostkv.codecs.turned_code",
        *(
            f"ghostkv.selectors.{name}"
            for name in ("base", "oracle_topk", "quest", "snapkv", "streaming_llm")
        ),
    )
