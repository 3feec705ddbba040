"""Text is read again where it came from the command line, and nowhere else."""

from __future__ import annotations

import pytest
import yaml

from ghostkv.config.experiment import load_config
from ghostkv.config.words import marked
from ghostkv.files.errors import ConfigError

# What YAML would take for numbers, truths, nothing or dates.
LOOK_ALIKES = [
    *("1.10", "1e3", "1.0e+3", "0x10", "010", "0123456", "1_000", ".nan", "2026-01-01", "12:30"),
    *("no", "on", "off", "true", "Yes", "null", "~", "=", ""),
]


def command_line(raw):
    return load_config(marked(raw, raw))


def custom(**more):
    return {"model": {"name": "mine", "custom": {"source": "hub", "id": "a/b", "layers": 2} | more}}


@pytest.mark.parametrize("word", LOOK_ALIKES)
def test_a_quoted_word_of_a_file_stays_text(word):
    raw = yaml.safe_load(yaml.safe_dump(custom(revision=word) | {"report": {"title": word}}))
    config = load_config(raw)
    assert (config.model.custom.revision, config.report.title) == (word, word)


@pytest.mark.parametrize("written", ["1.10", "0123456", "no", "2026-01-01", "1_000"])
def test_a_word_without_quotes_where_text_belongs_is_refused_and_not_guessed(written):
    with pytest.raises(ConfigError, match=r'model\.custom\.revision[\s\S]*Write: revision: "'):
        load_config(yaml.safe_load(f"model: {{name: m, custom: {{source: hub, id: a/b, layers: 2, revision: {written}}}}}"))  # fmt: skip


def test_no_is_a_domain_like_any_other():
    own = [
        {"domain": "no", "role": role, "path": f"{role}.txt"} for role in ("codec", "threshold", "held_out")
    ]
    names = load_config({"texts": {"domains": [], "custom": own}}).text_names()
    assert set(names) == {"no_codec_0", "no_threshold_0", "no_held_out_0"}
    with pytest.raises(ConfigError, match="Write: {domain: 'no', role: codec"):
        load_config({"texts": {"custom": [{"domain": "no", "role": "codec"}]}})


def test_words_of_the_command_line_mean_what_their_keys_take():
    raw = {
        "capture": {"layers": ["0", "2"], "tolerance": "1e-2", "seed": "0x10"},
        "hierarchy": {"bypass": "no"},
    }
    config = command_line(raw | {"trace": {"path": "null", "tokens": "~"}, "report": {"title": "no"}})
    assert (config.capture.layers, config.capture.tolerance, config.capture.seed) == ([0, 2], 0.01, 16)
    assert (config.hierarchy.bypass, config.trace.path, config.trace.tokens) == (False, None, None)
    assert config.report.title == "no"
    assert command_line(custom(revision="1.10")).model.custom.revision == "1.10"
    assert command_line({"model": {"custom": "null"}, "capture": {"layers": "all"}}) == load_config({})


def test_options_of_methods_arrive_from_the_command_line():
    raw = yaml.load(
        "{peers: {selectors: [{name: token_picker, chunks: [2, 2]}, {name: loki, dims: 4, centred: false}]},"
        "quality: {policies: [{label: identity, policy: identity, shared: no, dense_layers: [0, 1]}],"
        " headline: {identity: identity, mass: identity, budget: identity},"
        " ablation: {policy: null}, generation: {policies: []}}}",
        yaml.BaseLoader,
    )
    config = command_line(raw | {"synthetic": {"generators": [{"name": "sinks", "mass": "0.5"}]}})
    assert config.peers.selectors[0].plain()["chunks"] == [2, 2]
    assert config.peers.selectors[1].plain()["centred"] is False
    assert (config.quality.policies[0].shared, config.quality.policies[0].dense_layers) == (False, (0, 1))
    assert config.synthetic.generators[0].plain()["mass"] == 0.5


def test_only_what_the_command_line_says_is_read_again():
    raw = custom(revision="1.10") | {"capture": {"tokens": "8192"}}
    config = load_config(marked(raw | {"report": {"title": "on"}}, {"capture": raw["capture"]}))
    assert (config.model.custom.revision, config.capture.tokens, config.report.title) == ("1.10", 8192, "on")


def test_a_bomb_of_aliases_is_refused_before_it_is_walked():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    loop: dict = {}
    loop["texts"] = loop
    for raw in (yaml.safe_load("\n".join(lines)), loop):
        with pytest.raises(ConfigError, match="more than 100,000 values"):
            load_config(raw)


def test_yaml_tags_build_no_objects(tmp_path):
    from ghostkv.config.experiment import read_config

    for tag in (
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/name:os.system",
        "!!python/object:x.Y {}",
    ):
        (tmp_path / "mine.yaml").write_text(f"report: {{title: {tag}}}")
        with pytest.raises(ConfigError, match="not a readable YAML file"):
            read_config(tmp_path / "mine.yaml")
