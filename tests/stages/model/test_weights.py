"""Weights: a model holds what its files hold, each tensor once, or is refused with the names."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from ghostkv.files.errors import ModelError
from ghostkv.models.load import load_model
from ghostkv.models.weights import check_values
from ghostkv.sources.model_files import INDEX
from tests.stages.model.model_fixtures import copied, fetched, logits, write_gguf


def own(tmp_path, tiny, change=None, **config):
    """A user's copy of the tiny model whose weights or config were changed, as an entry."""
    folder = copied(tiny, tmp_path / "own")
    if change:
        weights = load_torch(folder / "model.safetensors")
        changed = change(weights)
        save_torch(weights if changed is None else changed, folder / "model.safetensors", {"format": "pt"})
    if config:
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(known | config))
    return {"source": "path", "path": str(folder)}


def drop(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def rename(pattern, by):
    return lambda weights: {key.replace(pattern, by, 1): value for key, value in weights.items()}


Q, NORM, HEAD = "model.layers.1.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight"


def half_of(name):
    def change(weights):
        weights[name] = weights[name][: len(weights[name]) // 2].clone()

    return change


def cast(name, dtype):
    def change(weights):
        weights[name] = (weights[name] * 20).to(dtype)

    return change


def put(name, value):
    def change(weights):
        weights[name].view(-1)[3] = value

    return change


def add(name, like):
    def change(weights):
        weights[name] = weights[like].clone()

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop(Q), [Q, "missing"]),
        (drop(NORM), [NORM, "missing"]),
        (drop(HEAD), [HEAD, "missing"]),  # the trunk alone, of a model whose head is not tied
        (rename("model.", "module.model."), ["missing", "module.model.layers"]),
        (rename("self_attn.q_proj", "attention.wq"), ["missing", "attention.wq"]),
        (half_of(Q), [Q, "32 x 64", "64 x 64"]),
        (half_of("model.embed_tokens.weight"), ["model.embed_tokens.weight", "128 x 64"]),
        (
            add("model.layers.0.self_attn.q_proj.bias", NORM),
            ["model.layers.0.self_attn.q_proj.bias", "not the model's"],
        ),
        (add("model.layers.2.input_layernorm.weight", NORM), ["model.layers.2.input_layernorm.weight"]),
        (add("norm.weight", NORM), ["norm.weight", "not the model's"]),  # twice: with and without its prefix
        (cast(Q, torch.int8), [Q, "I8"]),
        (cast(Q, torch.uint8), [Q, "U8"]),
        (cast(Q, torch.float8_e4m3fn), [Q, "F8_E4M3"]),
        (put(Q, float("nan")), [Q, "NaN"]),
        (put(NORM, float("inf")), [NORM, "infinity"]),
        (put(HEAD, -float("inf")), [HEAD, "infinity"]),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name(tmp_path, tiny, change, words):
    with pytest.raises(ModelError) as caught:
        fetched(tmp_path, own(tmp_path, tiny, change))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert list((tmp_path / "resources/models").iterdir()) == []


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"num_hidden_layers": 1}, "model.layers.1"),
        ({"num_hidden_layers": 3}, "model.layers.2"),
        ({"attention_bias": True}, "q_proj.bias"),
        ({"num_key_value_heads": 4}, "k_proj.weight"),
    ],
)
def test_a_config_of_another_model_is_refused_by_the_weights_names(tmp_path, tiny, config, word):
    with pytest.raises(ModelError, match=word):
        fetched(tmp_path, own(tmp_path, tiny, **config))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_plain_weights_of_any_width_are_taken(tmp_path, tiny, dtype):
    def change(weights):
        return {name: weight.to(dtype) for name, weight in weights.items()}

    folder = fetched(tmp_path, own(tmp_path, tiny, change))
    scale = float(np.abs(logits(tiny)).max())
    np.testing.assert_allclose(logits(folder), logits(tiny), atol=0.05 * scale)


def test_a_trunk_alone_is_taken_where_its_head_is_tied(tmp_path, tiny):
    entry = own(tmp_path, tiny, drop(HEAD), tie_word_embeddings=True)
    weights = load_file(fetched(tmp_path, entry) / "model.safetensors")
    model = load_model(tmp_path / "resources/models/mine")
    np.testing.assert_array_equal(model.lm_head.weight.detach().numpy(), weights["model.embed_tokens.weight"])


def test_a_head_that_differs_from_the_embedding_is_used_whatever_the_config_says_of_tying(tmp_path, tiny):
    folder = fetched(tmp_path, own(tmp_path, tiny, tie_word_embeddings=True))
    np.testing.assert_array_equal(logits(folder), logits(tiny))


def test_names_without_the_models_prefix_are_the_same_weights(tmp_path, tiny):
    folder = fetched(tmp_path, own(tmp_path, tiny, rename("model.", "")))
    np.testing.assert_array_equal(logits(folder), logits(tiny))


def test_masks_and_rotations_of_older_checkpoints_are_no_weights(tmp_path, tiny):
    def change(weights):
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        weights["model.layers.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
        weights["model.layers.0.attn.masked_bias"] = torch.tensor(-float("inf"))

    folder = fetched(tmp_path, own(tmp_path, tiny, change))
    np.testing.assert_array_equal(logits(folder), logits(tiny))


# Shards


def shards(folder, parts, listed=None):
    """Split the weights of a folder into `parts`: file -> names; the index is theirs, or `listed`."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for file, names in parts.items():
        save_file({name: weights[name] for name in names}, folder / file, metadata={"format": "pt"})
    right = {name: file for file, names in parts.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed or right}))
    return {"source": "path", "path": str(folder)}


@pytest.fixture
def parts(tiny):
    names = sorted(load_file(tiny / "model.safetensors"))
    return {"m-1.safetensors": names[::2], "m-2.safetensors": names[1::2]}


def test_shards_of_an_index_are_the_model(tmp_path, tiny, parts):
    folder = fetched(tmp_path, shards(copied(tiny, tmp_path / "own"), parts))
    np.testing.assert_array_equal(logits(folder), logits(tiny))


@pytest.mark.parametrize(
    "fault", ["lists one of two", "lists a tensor elsewhere", "holds a tensor twice", "lists too much"]
)
def test_shards_that_lose_or_repeat_a_tensor_are_refused_by_name(tmp_path, tiny, parts, fault):
    one, two = parts
    listed = {name: file for file, names in parts.items() for name in names}
    name = parts[one][0]
    if fault == "lists one of two":
        listed = {key: file for key, file in listed.items() if file == two}
    elif fault == "lists a tensor elsewhere":
        listed[name] = two
    elif fault == "holds a tensor twice":
        parts[two].append(name)
    else:
        listed["model.layers.0.extra"] = one
        name = "model.layers.0.extra"
    with pytest.raises(ModelError) as caught:
        fetched(tmp_path, shards(copied(tiny, tmp_path / "own"), parts, listed))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:1000], lambda data: b"", lambda data: b"\xff" * 8 + data, lambda data: data[:-4]],
)
def test_a_damaged_file_of_weights_is_one_message(tmp_path, tiny, damage):
    entry = own(tmp_path, tiny)
    path = tmp_path / "own/model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        fetched(tmp_path, entry)


# When a model is loaded


def test_a_dtype_that_the_weights_do_not_fit_is_refused(tmp_path, tiny):
    folder = fetched(tmp_path, own(tmp_path, tiny, put(Q, 1e5)))
    assert load_model(folder, "bfloat16").dtype == torch.bfloat16
    with pytest.raises(ModelError, match=rf"{Q}.*float16") as caught:
        load_model(folder, "float16")
    assert "dtype: float32" in str(caught.value)


def test_a_folder_that_was_not_fetched_is_checked_when_it_is_loaded(tmp_path, tiny):
    own(tmp_path, tiny, drop(Q))
    with pytest.raises(ModelError, match=Q):
        load_model(tmp_path / "own")


@pytest.mark.parametrize("name", [Q, NORM, "model.embed_tokens.weight"])
def test_a_weight_that_is_not_what_its_file_holds_is_refused(tiny, name):
    """transformers 5.24 draws Youtu's embedding anew after it was loaded, and calls it loaded."""
    model = load_model(tiny)
    check_values(tiny, model, "mine")
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] += 1e-3
    with pytest.raises(ModelError, match=name):
        check_values(tiny, model, "mine")


# GGUF files


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"leave_out": ["blk.1.attn_q.weight"]}, [Q, "missing"]),
        ({"leave_out": ["output_norm.weight"]}, [NORM, "missing"]),
        ({"extra": ["rope_freqs.weight"]}, ["rope_freqs.weight"]),
        ({"extra": ["blk.0.attn_q.bias"]}, ["numbers"]),
        (
            {"meta": lambda writer: writer.add_uint32("llama.attention.key_length", 32)},
            ["key_length is 32", "16"],
        ),
        (
            {"meta": lambda writer: writer.add_string("llama.rope.scaling.type", "yarn")},
            ["rope.scaling.type is yarn"],
        ),
        (
            {"meta": lambda writer: writer.add_uint32("llama.attention.sliding_window", 64)},
            ["sliding_window is 64"],
        ),
    ],
)
def test_a_gguf_file_of_which_transformers_loses_something_is_refused(tmp_path, tiny, options, words):
    path = write_gguf(tiny, tmp_path / "mine.gguf", **options)
    with pytest.raises(ModelError) as caught:
        fetched(tmp_path, {"source": "path", "path": str(path)})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_gguf_file_may_state_what_transformers_takes_for_granted(tmp_path, tiny):
    def meta(writer):
        writer.add_uint32("llama.attention.key_length", 16)
        writer.add_string("llama.rope.scaling.type", "none")

    folder = fetched(
        tmp_path, {"source": "path", "path": str(write_gguf(tiny, tmp_path / "mine.gguf", meta=meta))}
    )
    np.testing.assert_allclose(logits(folder)[:, :257], logits(tiny), atol=1e-4)


@pytest.mark.parametrize("change", ["a tensor of another place", "a type of another size", "cut short"])
def test_a_gguf_file_that_would_be_read_at_the_wrong_place_is_refused(tmp_path, tiny, change):
    path = write_gguf(tiny, tmp_path / "mine.gguf")
    data = bytearray(path.read_bytes())
    # After the name of a matrix stand 4 bytes of dimensions, 16 of shape, 4 of type and 8 of place.
    at = data.index(b"blk.1.attn_q.weight") + len(b"blk.1.attn_q.weight") + 20
    if change == "a tensor of another place":
        other = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 20
        data[at + 4 : at + 12] = data[other + 4 : other + 12]
    elif change == "a type of another size":
        data[at : at + 4] = (1).to_bytes(4, "little")
    else:
        data = data[:-64]
    path.write_bytes(data)
    with pytest.raises(ModelError, match="cut short" if change == "cut short" else "begins at byte"):
        fetched(tmp_path, {"source": "path", "path": str(path)})
