"""The config: generated files are current, command-line values arrive, every fault says what to write."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from pydantic import BaseModel

from ghostkv.config.__main__ import CONFIG
from ghostkv.config.experiment import Config, load_config, read_config
from ghostkv.config.messages import _models_in
from ghostkv.config.render import default_yaml
from ghostkv.files.errors import ConfigError
from ghostkv.sources.registry import read_models
from ghostkv.stages.checks import check_model

ROOT = CONFIG.parent
TENSORS = [
    {"folder": "/data/qkv", "domain": "mine", "role": role} for role in ("codec", "threshold", "held_out")
]


def test_default_config_yaml_is_generated_from_the_models():
    assert CONFIG.read_text() == default_yaml(Config()), "run: python -m ghostkv.config --write"


def test_default_config_yaml_means_the_defaults():
    assert read_config(CONFIG) == Config()


def test_an_empty_config_means_the_defaults():
    assert load_config({}) == Config()


def _models(model: type[BaseModel]) -> set[type[BaseModel]]:
    inner = {found for field in model.model_fields.values() for found in _models_in(field.annotation)}
    return {model}.union(*(_models(item) for item in inner))


@pytest.mark.parametrize("model", sorted(_models(Config), key=lambda model: model.__name__))
def test_every_field_is_described(model):
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name}"


def test_codec_names_are_those_of_the_registry():
    from ghostkv.codecs.by_name import names

    # The default run compares all but the one that is `transform_code` in whole fields, which docs/speed.md compares with it, and
    # those of turned keys.
    left_out = {"field_code", "turned_code", "vector_code"}
    assert {codec.name for codec in Config().sketch.codecs} == set(names()) - left_out


def test_conda_environment_has_the_pins_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pins = next(item["pip"] for item in environment if isinstance(item, dict))
    assert pins == project["dependencies"] + project["optional-dependencies"]["dev"]
    assert f"python {project['requires-python']}" in environment


def test_the_versions_that_make_installs_lie_in_the_ranges_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "resources/constraints.txt").read_text().splitlines()
    held = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    for line in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(line)
        # torch is the Makefile's own choice, because its build depends on the machine.
        if wanted.name != "torch":
            assert held[wanted.name] in wanted.specifier, line
    assert not set(held) & {"torch", "ghostkv"}


@pytest.mark.parametrize("file", sorted(Path(__file__).parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_bundled_configs_are_valid(file):
    read_config(file)


def test_texts_are_named_by_domain_role_and_number():
    names = load_config({"texts": {"domains": ["essays", "qa"], "per_role": {"held_out": 2}}}).text_names()
    assert list(names)[:4] == [
        "essays_codec_0",
        "essays_threshold_0",
        "essays_held_out_0",
        "essays_held_out_1",
    ]
    assert names["qa_held_out_1"] == {"domain": "qa", "role": "held_out", "custom": None}


def test_own_texts_are_numbered_after_the_listed_ones():
    own = {"domain": "qa", "role": "held_out", "path": "/data/mine.txt"}
    names = load_config({"texts": {"domains": ["qa"], "custom": [own]}}).text_names()
    assert names["qa_held_out_3"]["custom"]["path"] == "/data/mine.txt"


def test_imported_tensors_stand_in_place_of_texts():
    config = load_config({"capture": {"layers": [0], "import": TENSORS}})
    assert list(config.text_names()) == ["mine_codec_0", "mine_threshold_0", "mine_held_out_0"]


def test_threshold_folders_together_have_queries_enough_for_the_least_target():
    """Four times 1/target from the headline's start on; other roles, and models, as the config says."""
    for folders, late in ((1, 400), (2, 200), (5, 96)):
        more = [TENSORS[1] | {"folder": f"/data/{number}"} for number in range(folders - 1)]
        config = load_config({"capture": {"import": [*TENSORS, *more]}})
        bands = config.query_bands("threshold")
        assert bands[-1].count == late
        assert config.query_bands("codec") == load_config({}).query_bands("threshold")
    assert [band.count for band in load_config({}).query_bands("threshold")] == [16, 16, 32, 96]
    # No band has more queries than positions.
    bands = [{"start": 100, "stop": 164, "count": 8}, {"start": 164, "stop": 256, "count": 8}]
    raw = {"tokens": 256, "query_bands": bands, "import": TENSORS}
    config = load_config({"capture": raw, "frontier": {"headline_start": 164, "hot": 16}})
    assert [band.count for band in config.query_bands("threshold")] == [64, 92]


def test_held_out_texts_take_their_share_of_the_queries_and_at_least_one_a_band():
    config = load_config({})
    assert [band.count for band in config.query_bands("held_out")] == [4, 4, 8, 24]
    held_out = sum(entry["role"] == "held_out" for entry in config.text_names().values())
    # As many as three texts that take all of them.
    assert held_out * config.query_bands("held_out")[-1].count == 3 * config.query_bands("codec")[-1].count
    few = load_config({"capture": {"held_out_share": 0.01}})
    assert [band.count for band in few.query_bands("held_out")] == [1, 1, 1, 1]
    assert few.query_bands("threshold") == config.query_bands("threshold")


FAULTS = {
    # name: (config, what the message must say: key, value, accepted, fix)
    "unknown section": ({"captrue": {}}, ["captrue", "model, texts, capture", "Write: capture:"]),
    "unknown key": ({"capture": {"tokenss": 4096}}, ["capture.tokenss", "4096", "Write: tokens: 4096"]),
    "unknown key, nothing near": ({"report": {"zzz": 1}}, ["report.zzz", "title", "Remove the line"]),
    "wrong type": (
        {"capture": {"tokens": "many"}},
        ["capture.tokens", '"many"', "integer", "Write: tokens: 4096"],
    ),
    "section that is no mapping": ({"texts": "essays"}, ["texts", '"essays"', "Write: texts: {domains:"]),
    "too small": ({"capture": {"tokens": 8}}, ["capture.tokens", "8", "64", "Write: tokens: 4096"]),
    "unknown codec": (
        {"sketch": {"codecs": [{"name": "transfrom_code", "bits": [1]}]}},
        ["sketch.codecs[0].name", '"transfrom_code"', "gaussian", "Write: name: transform_code"],
    ),
    "list item": (
        {"sketch": {"codecs": [{"name": "pca", "bits": [1, "a"]}]}},
        ["sketch.codecs[0].bits[1]", '"a"', "number", "Write: bits: [1.0, 2.0, 4.0]"],
    ),
    "codec twice": (
        {"sketch": {"codecs": [{"name": "pca", "bits": [1]}, {"name": "pca", "bits": [2]}]}},
        ["sketch.codecs", "pca twice", "Write: codecs: [{name: pca, bits: [1.0]}]"],
    ),
    "missing key": (
        {"capture": {"query_bands": [{"start": 256, "stop": 4096}]}},
        ["capture.query_bands[0].count", "missing", "Write: count: "],
    ),
    "layer list": (
        {"capture": {"layers": [0, "x"]}},
        ["capture.layers[1]", '"x"', "integer", "Write: layers: all"],
    ),
    "layer twice": (
        {"capture": {"layers": [1, 1]}},
        ["capture.layers", "[1, 1]", "Write: layers: [0, 10, 20]"],
    ),
    "hub model without an id": (
        {"model": {"name": "mine", "custom": {"source": "hub"}}},
        ["model.custom.id", "missing", "Write: model: {name: mine, custom: {source: hub, id:"],
    ),
    "band beyond the context": (
        {"capture": {"tokens": 2048}},
        ["capture.query_bands[3].stop", "4096", "at most 2048", "Write: stop: 2048"],
    ),
    "band that is empty": (
        {"capture": {"query_bands": [{"start": 512, "stop": 512, "count": 1}]}},
        ["capture.query_bands[0]", "512", "start below stop", "Write: {start: 512, stop: 4096"],
    ),
    "more queries than positions": (
        {"capture": {"query_bands": [{"start": 4000, "stop": 4096, "count": 97}]}},
        ["capture.query_bands[0].count", "97", "96 positions", "Write: count: 96"],
    ),
    "bands that overlap": (
        {
            "capture": {
                "query_bands": [
                    {"start": 256, "stop": 2048, "count": 8},
                    {"start": 1024, "stop": 4096, "count": 8},
                ]
            }
        },
        ["capture.query_bands overlap", "256-2048", "Write: start: 2048"],
    ),
    "context too short for cold keys": (
        {"frontier": {"hot": 512}},
        ["query_bands[0].start", "256", "sinks (4)", "hot (512)", "top_k (32)", "Write: start: 548"],
    ),
    "no false elimination to choose thresholds for": (
        {"frontier": {"targets": {"fer": []}}},
        ["frontier.targets.fer is []", "at least 1 item", "decode and synthetic", "Write: fer: [0.01, 0.05]"],
    ),
    "calibrated index of two levels": (
        {"hierarchy": {"calibrated": {"partition": "kmeans", "leaf": 16, "bound": "box", "levels": 2}}},
        [
            "hierarchy.calibrated",
            "levels: 2",
            "Accepted: 1",
            "Write: calibrated: {partition: kmeans, leaf: 16, bound: box, levels: 1}",
        ],
    ),
    "headline beyond the queries": (
        {"frontier": {"headline_start": 5000}},
        ["frontier.headline_start", "5000", "at most 4095", "Write: headline_start: 2048"],
    ),
    "headline codec that is not sketched": (
        {"frontier": {"headline": {"bits": 1.1}}},
        [
            "frontier.headline",
            "1.1 bits",
            "transform_code at 0.5, 1, 2, 4",
            "Write: headline: {codec: transform_code",
        ],
    ),
    "headline rule that is left out": (
        {"frontier": {"rules": {"relative_topk": None}}},
        ["frontier.headline.rule", "relative_topk", "absolute, relative_lse", "Write: rule: absolute"],
    ),
    "role without a text": (
        {"texts": {"per_role": {"threshold": 0}}},
        ["no text of role threshold", "codec, threshold, held_out", "Write: per_role: {threshold: 1}"],
    ),
    "no texts": (
        {"texts": {"domains": []}},
        ["texts.domains", "both empty", "Write: texts: {domains: [essays]}"],
    ),
    "domain twice": ({"texts": {"domains": ["qa", "qa"]}}, ["texts.domains", "qa twice"]),
    "own text without a source": (
        {"texts": {"custom": [{"domain": "law", "role": "held_out"}]}},
        ["texts.custom (law, held_out)", "neither", "Write: {domain: law, role: held_out, path:"],
    ),
}


@pytest.mark.parametrize(("raw", "says"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_names_key_value_accepted_values_and_fix(raw, says):
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    for part in says:
        assert part in str(caught.value)


def test_one_message_for_several_faults():
    with pytest.raises(ConfigError, match=r"(?s)capture\.tokenss.*report\.titel"):
        load_config({"capture": {"tokenss": 1}, "report": {"titel": "x"}})


def test_imports_without_a_role_are_refused():
    with pytest.raises(ConfigError, match="no text of role held_out"):
        load_config({"capture": {"layers": [0], "import": TENSORS[:2]}})


def test_a_layer_that_the_model_lacks_is_refused():
    config = load_config({"capture": {"layers": [0, 30]}})
    with pytest.raises(ConfigError, match=r"(?s)layer 30.*has 30 layers.*0 to 29.*Write: layers: \[0\]"):
        check_model(config, range(30), 64)


def test_a_context_that_the_model_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"(?s)tokens is 4096.*at most 1024.*Write: tokens: 1024"):
        check_model(Config(), range(12), 64, max_context=1024)


def test_all_layers_are_those_of_the_model():
    assert check_model(Config(), range(3), 64) == [0, 1, 2]


@pytest.mark.parametrize(
    "raw", [b"capture: {tokens: ", b"- a list", b"\xff\xfe", b"[" * 5000, b"a: &a [*a, *b]"]
)
def test_an_unreadable_file_is_named(tmp_path, raw):
    file = tmp_path / "broken.yaml"
    file.write_bytes(raw)
    for read in (read_config, read_models):
        with pytest.raises(ConfigError, match=r"broken\.yaml: not a readable YAML file"):
            read(file)
