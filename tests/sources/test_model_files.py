"""The files of a model folder: one list for fetch and workflow, and what makes no model is refused by its name."""

import json
import os
from pathlib import Path

import pytest

from ghostkv.files.errors import ModelError
from ghostkv.sources.model_files import INDEX, model_files
from ghostkv.sources.registry import resolve_model

CONFIG = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def resolved(folder):
    return resolve_model("mine", {"source": "path", "path": str(folder)})


def index(folder, **tensors):
    (folder / INDEX).write_text(json.dumps({"weight_map": tensors}))


def test_what_describes_a_model_is_listed_and_nothing_else(folder):
    for name in (
        "chat_template.jinja",
        "tokenizer.model",
        "spiece.model",
        "qwen.tiktoken",
        "merges.txt",
        "vocab.txt",
    ):
        (folder / name).write_text("x")
    for name in ("README.md", "modeling_evil.py", "pytorch_model.bin", "._config.json", "other.safetensors"):
        (folder / name).write_text("x")
    listed = {file.name for file in model_files(folder)}
    assert listed == {
        "config.json", "tokenizer.json", "chat_template.jinja", "tokenizer.model", "spiece.model", "qwen.tiktoken",
        "merges.txt", "vocab.txt", "model.safetensors",
    }  # fmt: skip
    assert [os.path.basename(path) for path in resolved(folder).local_files()] == [
        file.name for file in model_files(folder)
    ]


def test_an_edit_of_any_file_or_an_older_copy_in_its_place_is_another_state(folder):
    (folder / "chat_template.jinja").write_text("a")
    states = {resolved(folder).file_states()}
    for change in (
        lambda: (folder / "chat_template.jinja").write_text("bb"),
        lambda: os.utime(folder / "model.safetensors", (1, 1)),
        lambda: (folder / "merges.txt").write_text("x"),
        lambda: (folder / "chat_template.jinja").unlink(),
    ):
        change()
        states.add(resolved(folder).file_states())
    assert len(states) == 5


def test_weights_of_several_files_are_those_of_the_index(folder):
    (folder / "part-1.safetensors").write_bytes(b"1")
    (folder / "part-2.safetensors").write_bytes(b"2")
    index(folder, a="part-2.safetensors", b="part-1.safetensors", c="part-2.safetensors")
    names = [file.name for file in model_files(folder)]
    assert names[-2:] == ["part-1.safetensors", "part-2.safetensors"]
    assert "model.safetensors" not in names


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "JSON"),
        ("[" * 100000, "JSON"),
        ("[]", "JSON"),
        ("{}", "weight_map"),
        ('{"weight_map": {}}', "weight_map"),
        ('{"weight_map": {"a": 3}}', "same folder"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "same folder"),
        ('{"weight_map": {"a": "/etc/model.safetensors"}}', "same folder"),
        ('{"weight_map": {"a": "sub/model.safetensors"}}', "same folder"),
        ('{"weight_map": {"a": "model.bin"}}', "same folder"),
        ('{"weight_map": {"a": "model.safetensors", "a": "part-2.safetensors"}}', "a stands in it twice"),
        ('{"weight_map": {"a": "model.safetensors", "b": "part-2.safetensors"}}', r"no part-2\.safetensors"),
    ],
)
def test_an_index_that_is_damaged_or_leads_elsewhere_is_refused_at_the_start(folder, content, word):
    (folder / INDEX).write_text(content)
    with pytest.raises(ModelError, match=word) as caught:
        resolved(folder)
    assert INDEX in str(caught.value)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["pytorch_model.bin"], ["pytorch_model.bin", "pickle can run code", "save_pretrained"]),
        (["model.pkl"], ["model.pkl", "pickle can run code"]),
        (["x.safetensors"], ["x.safetensors", "rename it to model.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            [INDEX, "model-00001-of-00002"],
        ),
        ([], ["no model.safetensors"]),
    ],
)
def test_a_folder_without_its_weights_says_what_it_has_and_what_to_do(folder, files, words):
    (folder / "model.safetensors").unlink()
    for name in files:
        (folder / name).write_bytes(b"x")
    with pytest.raises(ModelError) as caught:
        resolved(folder)
    assert all(word in str(caught.value) for word in words)


def looped(path):
    path.symlink_to(path.name)


def dangling(path):
    path.symlink_to("nowhere")


ODD = {
    "folder": lambda path: path.mkdir(),
    "loop": looped,
    "dangling": dangling,
    "pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"]
)
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_what_is_no_regular_file_is_refused_by_name_at_the_start(folder, name, make):
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        resolved(folder)


@pytest.mark.parametrize(
    "make", [looped, dangling, lambda path: os.mkfifo(path)], ids=["loop", "dangling", "pipe"]
)
def test_a_path_that_leads_nowhere_is_refused(tmp_path, make):
    make(tmp_path / "model")
    with pytest.raises(ModelError, match=r"model\.custom\.path"):
        resolved(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_may_not_be_read_is_refused_by_name(folder, name, monkeypatch):
    def refuse(path, *args, opened=Path.open, **kwargs):
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)  # root, whom tests may run as, may read everything
    with pytest.raises(ModelError, match=f"{name} cannot be read"):
        resolved(folder)


def test_a_folder_that_may_not_be_listed_is_refused(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ModelError, match="cannot be listed"):
        resolved(folder)


def test_a_link_to_a_file_is_as_good_as_the_file(folder, tmp_path_factory):
    blob = tmp_path_factory.mktemp("blobs") / "0123"
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    assert resolved(folder).layers == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            ["gptq", "gptqmodel", "save_pretrained"],
        ),
        ({"quantization_config": {"quant_method": "awq"}}, ["awq", "gptqmodel"]),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, ["bitsandbytes"]),
        ({"quantization_config": {"quant_method": "new"}}, ["new", "source: hub"]),
        ({"quantization_config": "odd"}, ["odd"]),
        ({"text_config": CONFIG | {"quantization_config": {"quant_method": "fp8"}}}, ["fp8"]),
        ({"_attn_implementation": "evil/kernel"}, ["_attn_implementation", "evil/kernel", "sdpa"]),
        ({"attn_implementation": {"text_config": "evil/kernel"}}, ["attn_implementation", "evil/kernel"]),
        ({"text_config": CONFIG | {"attn_implementation": "flash_attention_2"}}, ["flash_attention_2"]),
        ({"transformers_weights": "../other/model.safetensors"}, ["transformers_weights", "../other"]),
    ],
)
def test_a_config_that_asks_for_other_weights_or_kernels_is_refused_at_the_start(folder, change, words):
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(ModelError) as caught:
        resolved(folder)
    assert all(word in str(caught.value) for word in words)


def test_an_adapter_is_refused_because_its_weights_would_be_left_out(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter"):
        resolved(folder)


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "1e999", '{"__float__": "NaN"}', "[1, [-Infinity]]"]
)
def test_a_number_that_is_not_finite_is_refused_by_its_key(folder, text):
    (folder / "config.json").write_text(json.dumps(CONFIG)[:-1] + f', "inner": {{"rms_norm_eps": {text}}}}}')
    with pytest.raises(ModelError, match="rms_norm_eps"):
        model_files(folder)


@pytest.mark.parametrize("text", ["[0.0, Infinity]", '[0.0, {"__float__": "Infinity"}]'])
def test_hybrids_may_say_that_a_limit_is_none(folder, text):
    (folder / "config.json").write_text(json.dumps(CONFIG)[:-1] + f', "time_step_limit": {text}}}')
    assert folder / "config.json" in model_files(folder)
