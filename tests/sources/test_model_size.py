"""The size of a model is read from whatever states it, without weights."""

from __future__ import annotations

import json
import struct

import pytest

from ghostkv.config.experiment import load_config
from ghostkv.files.errors import ConfigError, ModelError
from ghostkv.sources.entries import ModelEntry
from ghostkv.sources.model_size import fetched_size, size_of
from ghostkv.sources.registry import resolve_model

# As the hub has it of Llama-3.1-8B, which has 8,030,261,248 parameters.
LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
}  # fmt: skip
# Norms, which the size leaves out, are a ten-thousandth.
NEAR = 1e-4


@pytest.fixture
def stated(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_8B))
    return path


def test_a_config_of_the_hub_states_the_size_of_a_model_that_is_not_here(stated, tmp_path):
    custom = {"source": "hub", "id": "meta-llama/Llama-3.1-8B", "shape": str(stated)}
    entry = resolve_model("llama", custom)
    assert (entry.layers, entry.max_context) == (32, 131072)
    size = size_of(entry, tmp_path / "nothing is fetched")
    assert (size.heads, size.kv_heads, size.head_dim, size.width) == (32, 8, 128, 4096)
    assert size.parameters == pytest.approx(8_030_261_248, rel=NEAR)
    assert size.active == pytest.approx(8_030_261_248 - 2 * 128256 * 4096, rel=NEAR)
    assert size.download_bytes == size.stored_bytes == 2 * size.parameters
    assert size.assumed == ()


def test_a_fetched_model_has_nothing_to_download(stated, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    size = fetched_size(tmp_path)
    assert size == size_of(ModelEntry(source="hub", id="a/b", layers=2), tmp_path)
    assert (size.layers, size.stored_bytes, size.download_bytes) == (32, 1000, 0)


def test_what_nothing_states_is_assumed_and_named(tmp_path):
    size = size_of(ModelEntry(source="hub", id="a/b", layers=24, heads=16), tmp_path)
    assert {one.partition(":")[0] for one in size.assumed} == {"kv_heads", "head_dim", "vocabulary"}
    assert size.parameters > size.active > 24 * 16 * 128 * 16 * 128


@pytest.mark.parametrize(
    ("name", "parameters", "download"),
    [("smollm2-135m-instruct", 134_515_008, 93_000_000), ("gemma-3-270m", 268_098_176, 238_200_000)],
)
def test_a_listed_model_has_the_parameters_that_its_entry_states(tmp_path, name, parameters, download):
    size = size_of(resolve_model(name), tmp_path)
    assert (size.parameters, size.download_bytes) == (parameters, download)
    assert size.stored_bytes == 4 * parameters
    # Of a wheel's GGUF, kept as float32.
    assert size.stored_bytes == 4 * size.parameters


GEMMA_2 = {"model_type": "gemma2", "sliding_window": 64, "num_hidden_layers": 3}


@pytest.mark.parametrize(
    ("stated", "windows"),
    [
        ({"sliding_window": 64, "layer_types": 2 * ["sliding_attention"] + ["full_attention"]}, (64, 64, 0)),
        ({"sliding_window": 64, "sliding_window_pattern": 3}, (64, 64, 0)),
        ({"sliding_window": 64, "model_type": "mistral"}, (64, 64, 64)),
        (GEMMA_2, (64, 0, 64)),
        # Stated, and used by no layer, as Qwen2 has it.
        ({"sliding_window": 64, "model_type": "qwen2", "use_sliding_window": False}, ()),
        ({"sliding_window": 64, "layer_types": 3 * ["full_attention"]}, ()),
        ({"sliding_window": None, "model_type": "mistral"}, ()),
        ({}, ()),
    ],
)
def test_layers_that_slide_are_told_from_those_that_see_all(tmp_path, stated, windows):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B | {"num_hidden_layers": 3} | stated))
    assert fetched_size(tmp_path).windows == windows


def test_a_listed_model_says_before_the_fetch_which_of_its_layers_slide():
    size = size_of(resolve_model("gemma-3-270m"))
    assert [layer for layer, window in enumerate(size.windows) if not window] == [5, 11, 17]
    assert {*size.windows} == {0, 512}
    assert size_of(resolve_model("tiny-gemma2")).windows == (64, 0)
    # Embeddings are what is in no layer: 49,152 words of SmolLM2, but for norms.
    assert size_of(resolve_model("smollm2-135m-instruct")).vocabulary == pytest.approx(49152, rel=2e-3)


def test_experts_that_are_not_chosen_are_stored_and_not_computed(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(LLAMA_8B | {"num_local_experts": 8, "num_experts_per_tok": 2})
    )
    size = fetched_size(tmp_path)
    forward = 32 * 3 * 4096 * 14336
    assert size.parameters - size.active - 2 * 128256 * 4096 == 6 * forward


def test_a_gguf_states_its_parameters_by_the_shapes_of_its_tensors(tmp_path):
    def text(words: str) -> bytes:
        return struct.pack("<Q", len(words)) + words.encode()

    pairs = {
        "block_count": 2, "attention.head_count": 4, "attention.head_count_kv": 2, "embedding_length": 64,
        "context_length": 512,
    }  # fmt: skip
    tensors = {"token_embd.weight": (64, 100), "blk.0.ffn_up.weight": (64, 256)}
    data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs) + 1)
    data += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    data += b"".join(text(f"llama.{key}") + struct.pack("<II", 4, value) for key, value in pairs.items())
    for name, shape in tensors.items():
        data += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        data += struct.pack("<IQ", 0, 0)
    path = tmp_path / "mine.gguf"
    path.write_bytes(data + bytes(64))
    entry = resolve_model("mine", {"source": "hub", "id": "a/b", "shape": str(path)})
    size = size_of(entry, tmp_path / "nothing")
    assert (size.layers, size.heads, size.kv_heads, size.head_dim, size.width) == (2, 4, 2, 16, 64)
    assert (size.parameters, size.active) == (64 * 356, 64 * 256)


def test_a_shape_is_refused_where_it_is_no_file_or_stands_beside_another_source(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        resolve_model("mine", {"source": "hub", "id": "a/b", "shape": str(tmp_path / "none.json")})
    with pytest.raises(ConfigError, match="shape"):
        load_config({"model": {"name": "mine", "custom": {"source": "path", "path": "/x", "shape": "/y"}}})
