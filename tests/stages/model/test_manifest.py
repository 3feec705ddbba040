"""The manifest: a model folder is read as it was fetched, or refused by the name of the file."""

import json
import random
import shutil

import pytest

from ghostkv.files.errors import ModelError
from ghostkv.models.load import load_model
from ghostkv.models.manifest import read_manifest, verify
from ghostkv.models.tokenizer import load_tokenizer
from tests.stages.model.model_fixtures import copied


@pytest.fixture
def folder(tmp_path, tiny):
    return shutil.copytree(tiny, tmp_path / "mine")


FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


def flip(data):
    place = random.Random(0).randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES = {
    "flip": flip,
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "grown": lambda data: data + b"\n",
}


def test_the_manifest_lists_every_file(folder):
    assert sorted(read_manifest(folder)["files"]) == sorted(
        {file.name for file in folder.iterdir()} - {"manifest.json"}
    )
    assert sorted(read_manifest(folder)["files"]) == FILES
    verify(folder)


# White space after a JSON object changes nothing of the manifest.
CASES = [
    (name, kind)
    for name in [*FILES, "manifest.json"]
    for kind in DAMAGES
    if (name, kind) != ("manifest.json", "grown")
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_damaged_file_is_refused_with_its_name_and_what_makes_it_anew(folder, name, kind):
    path = folder / name
    path.write_bytes(DAMAGES[kind](path.read_bytes()))
    for read in (load_model, load_tokenizer):
        if read is load_tokenizer and name == "model.safetensors":
            continue
        with pytest.raises(ModelError) as caught:
            read(folder)
        assert str(path) in str(caught.value)
        assert f"snakemake --cores 1 --force {folder}/manifest.json" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "chat_template.jinja", "model-00002-of-00002.safetensors", "sub"]
)
def test_an_added_file_is_refused_because_transformers_may_read_it(folder, name):
    (folder / name).mkdir() if name == "sub" else (folder / name).write_text("{}")
    with pytest.raises(ModelError, match=name):
        load_model(folder)


def test_a_missing_file_is_refused_by_name(folder):
    (folder / "generation_config.json").unlink()
    with pytest.raises(ModelError, match=r"generation_config\.json is missing"):
        load_model(folder)


def test_an_edited_manifest_is_refused(folder):
    edited = json.loads((folder / "manifest.json").read_text()) | {"license": "another"}
    (folder / "manifest.json").write_text(json.dumps(edited))
    with pytest.raises(ModelError, match=r"manifest\.json"):
        read_manifest(folder)


@pytest.mark.parametrize("content", ["[]", "{}", "null", "[" * 100000])
def test_a_manifest_of_another_kind_is_refused(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ModelError, match=r"manifest\.json"):
        read_manifest(folder)


def test_a_folder_of_the_users_own_needs_no_manifest(tmp_path, tiny):
    assert load_model(copied(tiny, tmp_path / "own")).config.num_hidden_layers == 2
