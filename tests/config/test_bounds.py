"""Every number of the config has a least and a greatest value, and every list a greatest length."""

from __future__ import annotations

import copy
import random
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, TypeAdapter

from ghostkv.captures.generated import draw
from ghostkv.captures.generators import make
from ghostkv.config.experiment import Config, load_config
from ghostkv.config.messages import _models_in
from ghostkv.config.selectors import _model, check_selector, selector_names
from ghostkv.config.synthetic import _BOUNDS, PARAMETERS
from ghostkv.config.words import marked
from ghostkv.files.errors import ConfigError
from ghostkv.sources.documents import TextSource
from ghostkv.sources.entries import ModelEntry

MODELS = {"config": Config, "model entry": ModelEntry, "text source": TextSource}
MODELS |= {f"selector {name}": _model(name) for name in selector_names()}


def unbounded(schema: Any, where: str = "") -> list[str]:
    """Places of a JSON schema where a number or a list has no end."""
    if isinstance(schema, list):
        return [
            found for number, part in enumerate(schema) for found in unbounded(part, f"{where}[{number}]")
        ]
    if not isinstance(schema, dict):
        return []
    found, kind = [], schema.get("type")
    if kind in ("integer", "number") and not {"const", "enum"} & schema.keys():
        found += [] if {"minimum", "exclusiveMinimum"} & schema.keys() else [f"{where}: no least value"]
        found += [] if {"maximum", "exclusiveMaximum"} & schema.keys() else [f"{where}: no greatest value"]
    if kind == "array" and "maxItems" not in schema:
        found.append(f"{where}: no greatest length")
    inner = {key: part for key, part in schema.items() if key not in ("default", "examples")}
    return found + [place for key, part in inner.items() for place in unbounded(part, f"{where}.{key}")]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_every_number_and_list_has_bounds(model):
    assert unbounded(model.model_json_schema()) == []


def doubly_bounded(model: type[BaseModel]) -> list[str]:
    """Keys of a section, and of those within it, with two least or two greatest values, of which one does not count."""
    found = []
    for key, field in model.model_fields.items():
        kinds = [type(one).__name__ for one in field.metadata]
        found += [key] * any(sum(kind in pair for kind in kinds) > 1 for pair in (("Ge", "Gt"), ("Le", "Lt")))
        found += [
            f"{key}.{place}" for inner in _models_in(field.annotation) for place in doubly_bounded(inner)
        ]
    return found


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_no_bound_hides_another(model):
    assert doubly_bounded(model) == []


def test_the_walk_finds_what_lacks_a_bound():
    class Loose(BaseModel):
        free: int = 1
        lists: list[float] | None = None

    assert len(unbounded(Loose.model_json_schema())) == 5
    assert unbounded(TypeAdapter(list[bool]).json_schema()) == [": no greatest length"]


HUGE = 10**10
TIER = {"name": "a", "gb_s": 4.8e6, "near_gb_s": 1, "latency_us": 1, "unit": 64, "depth": 1}
TIER |= {"source": "as announced"}
FAULTS = {
    # key -> the section that breaks it
    "frontier.rules.relative_topk.count": {"frontier": {"rules": {"relative_topk": {"start": -2, "stop": 1, "count": HUGE}}}},
    "decode.synthetic.steps": {"decode": {"synthetic": {"steps": 10**9}}},
    "quality.replicates": {"quality": {"replicates": 10**9}},
    "frontier.hot": {"frontier": {"hot": 0}},
    "report.png_scale": {"report": {"png_scale": 1e9}},
    "capture.seed": {"capture": {"seed": -1}},
    "capture.threads": {"capture": {"threads": HUGE}},
    "capture.layers[1]": {"capture": {"layers": [0, HUGE]}},
    "bandwidth.tiers[0].gb_s": {"bandwidth": {"tiers": [TIER]}},
}  # fmt: skip


@pytest.mark.parametrize(("key", "raw"), FAULTS.items(), ids=FAULTS.keys())
def test_a_number_out_of_bounds_is_refused_by_its_key(key, raw):
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    assert f"config: {key} is " in str(caught.value)
    assert "Accepted: " in str(caught.value)


@pytest.mark.parametrize("name", selector_names())
def test_no_option_of_a_selector_takes_what_is_out_of_all_proportion(name):
    for option, field in _model(name).model_fields.items():
        if field.annotation in (int, float):
            for value in (-HUGE, HUGE):
                with pytest.raises(ConfigError, match=option):
                    check_selector({"name": name, option: value}, "peers.selectors")


PRODUCTS = {
    "benchmark": {"benchmark": {"keys": 1 << 20, "queries": 10_000}},
    "calibrated.learned": {"calibrated": {"learned": {"keys": 1 << 16, "queries": 8192}}},
    "decode.synthetic": {"decode": {"synthetic": {"tokens": 1 << 20, "head_dim": 1024}}},
    "synthetic": {"synthetic": {"tradeoff": {"contexts": [1 << 20], "queries": 10_000}}},
    "store": {"store": {"gather_tokens": 1 << 24, "kv_heads": 1024}},
}


@pytest.mark.parametrize(("section", "raw"), PRODUCTS.items(), ids=PRODUCTS.keys())
def test_numbers_that_are_too_large_together_are_refused(section, raw):
    with pytest.raises(ConfigError, match=f"config: {section} has .* numbers to hold at once"):
        load_config(raw)


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items(), ids=PARAMETERS.keys())
def test_parameters_of_generators_have_bounds_within_which_tensors_are_finite(name, parameters):
    for key in (*parameters, "spread", "span"):
        for value in (-HUGE, HUGE, float("nan")):
            with pytest.raises(ConfigError, match=key):
                load_config({"synthetic": {"generators": [{"name": name, key: value}]}})
        for value in _BOUNDS[key][:2]:
            entry = {"name": name, key: int(value) if key in ("count", "span") else value}
            (checked,) = load_config({"synthetic": {"generators": [entry]}}).synthetic.generators
            drawn = draw(make(checked.plain()), 0, "text", 64, np.arange(32, 64, 8), width=16)
            assert np.isfinite(drawn.capture.keys).all()
            assert np.isfinite(drawn.capture.queries).all()


def test_more_planted_keys_than_the_context_holds_are_refused():
    crowd = [{"name": "sinks", "count": 300}]
    with pytest.raises(ConfigError, match=r"synthetic\.generators sinks has count: 300 in a span of 512"):
        load_config({"synthetic": {"tokens": 512, "generators": crowd}})
    with pytest.raises(ConfigError, match=r"decode\.synthetic\.generators sinks has count: 300"):
        load_config({"decode": {"synthetic": {"tokens": 512, "generators": crowd}}})


def test_no_fault_leaves_the_config_as_anything_but_the_labs_own_error():
    rng, plain = random.Random(0), Config().plain()
    values = [-1, 10**30, 1e308, float("nan"), "", "x" * 300, [], {}, None, True, "\x00", [[1]]]
    for _ in range(100):
        section = rng.choice(list(plain))
        raw = {section: copy.deepcopy(plain[section])}
        holder: Any = raw
        while True:
            key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            if not holder[key] or not isinstance(holder[key], dict | list) or rng.random() < 0.1:
                break
            holder = holder[key]
        holder[key] = rng.choice(values)
        with suppress(ConfigError):
            load_config(marked(raw, raw) if rng.random() < 0.5 else raw)


# Prompts may be as long as each other, and chunks of bits as wide; the rest only say where a policy is measured.
AGAIN = ("prompt_tokens", "chunks", "tasks", "lengths", "levels", "shares")


def lists(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to all lists of a config that are not empty."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if isinstance(value, list) and value else []
    return found + [place for key, part in parts for place in lists(part, (*path, key))]


def test_what_is_listed_twice_would_count_twice():
    config = Config().plain()
    taken = []
    for path in lists(config):
        changed = copy.deepcopy(config)
        found = changed
        for key in path:
            found = found[key]
        found.insert(1, copy.deepcopy(found[0]))
        with suppress(ConfigError):
            load_config(changed)
            taken.append(path)
    assert [path for path in taken if path[-1] not in AGAIN] == []
