"""The header of a GGUF file: what it states is what was written, whatever its size, and nothing else is taken for one."""

import struct

import gguf
import numpy as np
import pytest

from ghostkv.files.errors import ModelError
from ghostkv.sources.gguf_header import gguf_shape, read_gguf_header
from ghostkv.sources.registry import resolve_model

SHAPE = {"layers": 4, "heads": 8, "kv_heads": 8, "head_dim": 32, "max_context": 4096}


def write(path, meta=lambda writer: None, **changed):
    """A GGUF file of one tensor; `changed` are counts by their GGUF name, None to leave one out."""
    stated = {"block_count": 4, "context_length": 4096, "embedding_length": 256, "head_count": 8} | changed
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in stated.items():
        key = f"llama.{'attention.' if name.startswith(('head', 'key')) else ''}{name}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    meta(writer)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_header_holds_what_was_written(tmp_path):
    def meta(writer):
        writer.add_name("Grüße 漢字")
        writer.add_rope_freq_base(1e6)
        writer.add_array("llama.numbers", [1, 2, 3])
        writer.add_array("llama.words", ["a", "", "漢"])
        writer.add_int64("llama.negative", -5)
        writer.add_bool("llama.yes", True)
        writer.add_float64("llama.tenth", 0.1)

    header = read_gguf_header(write(tmp_path / "a.gguf", meta))
    stated = header.pairs
    assert (stated["general.name"], stated["llama.rope.freq_base"]) == ("Grüße 漢字", 1e6)
    assert (stated["llama.numbers"], stated["llama.words"]) == ([1, 2, 3], ["a", "", "漢"])
    assert (stated["llama.negative"], stated["llama.yes"], stated["llama.tenth"]) == (-5, True, 0.1)
    assert header.shapes == {"token_embd.weight": (32, 4)}
    assert gguf_shape(tmp_path / "a.gguf") == SHAPE


def test_a_vocabulary_of_262144_words_is_stepped_over_and_what_follows_is_read(tmp_path):
    def meta(writer):
        words = 262_144
        writer.add_token_list([f"{number:x}" for number in range(words)])
        writer.add_token_types(np.ones(words, np.int32).tolist())
        writer.add_uint32("llama.attention.head_count_kv", 2)

    path = write(tmp_path / "large.gguf", meta)
    assert (
        resolve_model("mine", {"source": "path", "path": str(path)}).plain().items()
        >= (SHAPE | {"kv_heads": 2}).items()
    )
    assert "tokenizer.ggml.tokens" not in read_gguf_header(path).pairs


@pytest.mark.parametrize(
    ("changed", "shape"),
    [
        (
            {"head_count_kv": [0, 0, 2, 0]},
            {"kv_heads": 2, "attention_layers": (2,)},
        ),  # a hybrid: one layer of four has attention
        ({"head_count_kv": [2, 2, 4, 4]}, {"kv_heads": None}),
        ({"head_count": [8, 8, 8, 8], "head_count_kv": 4}, {"kv_heads": 4}),
        ({"key_length": 64}, {"head_dim": 64}),
        ({"context_length": None}, {"max_context": None}),
    ],
)
def test_a_shape_is_told_as_far_as_it_is_one_for_all_layers(tmp_path, changed, shape):
    expected = {key: value for key, value in (SHAPE | shape).items() if value is not None}
    assert gguf_shape(write(tmp_path / "a.gguf", **changed)) == expected


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"head_count": 0}, "head_count is 0"),
        ({"head_count_kv": 0}, "head_count_kv is 0"),
        ({"head_count_kv": [0, 0, 0, 0]}, "head_count_kv is"),
        ({"head_count": ["8", "8"]}, "head_count is"),
        ({"block_count": 0}, "block_count is 0"),
        ({"block_count": None}, r"no llama\.block_count"),
        ({"head_count": None}, r"no llama\.attention\.head_count"),
    ],
)
def test_counts_that_make_no_attention_are_refused_by_key(tmp_path, changed, key):
    with pytest.raises(ModelError, match=key):
        gguf_shape(write(tmp_path / "a.gguf", **changed))


@pytest.mark.parametrize("name", ["m-00001-of-00002.gguf", "renamed.gguf"])
def test_a_part_of_a_split_file_is_refused_before_anything_runs(tmp_path, name):
    def meta(writer):
        writer.add_uint16("split.count", 2)

    path = write(tmp_path / name, meta)
    with pytest.raises(ModelError, match="one of 2 parts"):
        resolve_model("mine", {"source": "path", "path": str(path), "layers": 4})


def test_a_header_cut_anywhere_is_one_error(tmp_path):
    whole = write(tmp_path / "a.gguf", lambda writer: writer.add_token_list(["word"] * 5000)).read_bytes()
    end = whole.index(b"token_embd.weight") + 40
    for cut in np.linspace(0, end, 40, dtype=int):
        (tmp_path / "cut.gguf").write_bytes(whole[:cut])
        with pytest.raises(ModelError, match=r"cut\.gguf"):
            gguf_shape(tmp_path / "cut.gguf")


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<4sIQQ", b"GGML", 3, 0, 0),
        struct.pack("<4sIQQ", b"GGUF", 1, 0, 0),
        struct.pack(">4sIQQ", b"GGUF", 3, 0, 0),  # big-endian
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**63),
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**63) + b"key",
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**62),
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**62),
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 2),
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 2)
        + (struct.pack("<Q", 1) + b"k" + struct.pack("<II", 4, 1)) * 2,
    ],
)
def test_a_hostile_header_is_one_error_at_once(tmp_path, header):
    (tmp_path / "bad.gguf").write_bytes(header)
    with pytest.raises(ModelError, match=r"bad\.gguf: not a readable GGUF file"):
        gguf_shape(tmp_path / "bad.gguf")
