"""Selectors that a config names: options and their values are refused when it is read, not after hours."""

from __future__ import annotations

import pytest

from ghostkv.config.experiment import load_config
from ghostkv.config.selectors import _model, check_selector, selector_names
from ghostkv.files.errors import ConfigError
from ghostkv.files.methods import Method

FAULTS = {
    # name: (entry, what the message must say)
    "unknown": ({"name": "telepathy"}, ["names 'telepathy'", "quest, ", "add ghostkv/selectors/telepathy.py"]),
    "misspelt": ({"name": "qest"}, ["names 'qest'", "Write: {name: quest}"]),
    "by its bare name": ("quest", ["'quest', not a mapping", "Write: {name: quest}"]),
    "option that it lacks": ({"name": "quest", "pages": 8}, ["quest with pages: 8", "Accepted: page, metadata.", "Write: page: 8"]),
    "option where there is none": ({"name": "streaming_llm", "window": 8}, ["window: 8", "Accepted: none", "Remove it"]),
    "empty page": ({"name": "quest", "page": 0}, ["(quest): page is 0", "greater than or equal to 1", "Write: page: 16"]),
    "negative page": ({"name": "quest", "page": -1}, ["page is -1", "greater than or equal to 1", "Write: page: 16"]),
    "wider than any head": ({"name": "loki", "dims": 10000}, ["dims is 10000", "less than or equal to 1024", "Write: dims: 8"]),
    "no observation": ({"name": "snapkv", "observe": 0}, ["observe is 0", "Write: observe: 16"]),
    "even kernel": ({"name": "snapkv", "kernel": 4}, ["kernel is 4", "an odd number", "Write: kernel: 5"]),
    "more than all": ({"name": "h2o", "recent": 1.5}, ["recent is 1.5", "less than or equal to 1", "Write: recent: 0.0"]),
    "text for a number": ({"name": "quest", "page": "16"}, ['page is "16"', "integer", "Write: page: 16"]),
    "true for a number": ({"name": "quest", "page": True}, ["page is true", "integer", "Write: page: 16"]),
    "number for true": ({"name": "loki", "centred": 1}, ["centred is 1", "boolean", "Write: centred: true"]),
    "no chunks": ({"name": "token_picker", "chunks": []}, ["chunks is []", "at least 1 item", "Write: chunks: [4, 4, 4]"]),
    "empty chunk": ({"name": "token_picker", "chunks": [4, 0]}, ["chunks[1] is 0", "greater than or equal to 1"]),
    "no number": ({"name": "token_picker", "slack": float("nan")}, ["slack is NaN", "finite", "Write: slack: 0.2"]),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "says"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_names_value_accepted_values_and_fix(entry, says):
    with pytest.raises(ConfigError) as caught:
        check_selector(entry, "quality.policies mine")
    for part in ("config: quality.policies mine", *says):
        assert part in str(caught.value)


def test_peers_refuse_a_value_when_the_config_is_read():
    with pytest.raises(ConfigError, match=r"config: peers.selectors \(quest\): page is 0"):
        load_config({"peers": {"selectors": [{"name": "quest", "page": 0}]}})


@pytest.mark.parametrize("name", selector_names())
def test_the_defaults_of_every_selector_are_values_that_it_takes(name):
    fields = _model(name).model_fields
    check_selector({"name": name, **{key: field.default for key, field in fields.items()}}, "here")


def test_a_whole_number_is_a_number():
    check_selector({"name": "token_picker", "slack": 1, "depth": 2}, "here")


def test_an_annotation_that_options_does_not_define_names_the_file(monkeypatch):
    stranger = {"stranger": Method("stranger", {"page": ("PageSize", "16")}, {})}
    monkeypatch.setattr("ghostkv.config.selectors.methods", lambda room, base: stranger)
    with pytest.raises(
        ConfigError, match=r"ghostkv/selectors/stranger.py: page is annotated with PageSize[\s\S]*Count"
    ):
        check_selector({"name": "stranger", "page": 8}, "here")
