"""Sketch: records on disk are what codecs wrote, the same every time, and never of texts that fitted them."""

from pathlib import Path

import numpy as np
import pytest

from ghostkv.captures.capture_files import read_layer
from ghostkv.codecs.records import CodecSpec, load_codecs, read_records
from ghostkv.files.errors import ConfigError, TableError
from ghostkv.files.io import read_metadata, read_table, sha256_file
from ghostkv.files.tensors import load_tensors, save_tensors
from ghostkv.stages.sketch.jobs import SketchLayer
from ghostkv.stages.sketch.layer import sketch_layer

CODECS = [CodecSpec("gaussian", 4), CodecSpec("transform_code", 2), CodecSpec("transform_code", 4)]
PARAMS = {"codecs": CODECS, "fitted": (), "seed": 0, "code": "fingerprint"}


def outputs(folder):
    return {"codecs": str(folder / "codecs.safetensors"), "records": str(folder / "records.parquet")}


@pytest.fixture(scope="module")
def sketched(captures, tmp_path_factory):
    files = outputs(tmp_path_factory.mktemp("sketch"))
    sketch_layer(SketchLayer.read(PARAMS | {"captures": captures, "layer": 1}), {}, files)
    return files


def test_records_read_back_are_what_the_stored_codecs_write(captures, sketched):
    chosen = CODECS
    fitted = load_codecs(sketched["codecs"], chosen)
    assert set(fitted) == {(spec, head) for spec in chosen for head in range(2)}
    layer = read_layer(captures[2]["folder"], 1)
    found = read_records(sketched["records"], "prose_held_out_0", chosen)
    for (spec, head), codec in fitted.items():
        written = codec.encode(layer.keys[head])
        assert np.array_equal(found[spec][head].code, written.code)
        assert np.array_equal(found[spec][head].rho, written.rho)
        assert found[spec][head].code.shape == (layer.tokens, spec.code_bytes)


def test_codec_texts_get_no_records(sketched):
    assert set(read_table(sketched["records"])["text"]) == {"prose_threshold_0", "prose_held_out_0"}


def test_a_codec_sees_only_codec_texts(captures, sketched, write_captures, tmp_path):
    # Swapping the measured texts for others leaves the fitted codecs byte for byte the same.
    others = [captures[0]] + [entry | {"folder": captures[0]["folder"]} for entry in captures[1:]]
    files = outputs(tmp_path)
    sketch_layer(SketchLayer.read(PARAMS | {"captures": others, "layer": 1}), {}, files)
    found, before = (load_tensors(one["codecs"]) for one in (files, sketched))
    assert found.keys() == before.keys()
    assert all(np.array_equal(found[name], before[name]) for name in before)


def test_the_same_captures_give_the_same_bytes(captures, sketched, tmp_path):
    files = outputs(tmp_path / Path(sketched["codecs"]).parent.name)
    sketch_layer(SketchLayer.read(PARAMS | {"captures": captures, "layer": 1}), {}, files)
    for name, path in files.items():
        assert sha256_file(path) == sha256_file(sketched[name])


def test_metadata_names_model_texts_and_fingerprint(sketched):
    metadata = read_metadata(sketched["records"])
    assert metadata["model"] == "made"
    assert metadata["fingerprint"] == "fingerprint"
    assert "prose_codec_0" in metadata["texts"]


def test_without_a_codec_text_nothing_is_written(captures, tmp_path):
    with pytest.raises(ConfigError, match="no text has the role 'codec'"):
        sketch_layer(SketchLayer.read(PARAMS | {"captures": captures[1:], "layer": 0}), {}, outputs(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_refused_by_name(captures, sketched, tmp_path):
    chosen = CODECS
    with pytest.raises(TableError, match="no records of text 'novel'"):
        read_records(sketched["records"], "novel", chosen)
    for name, reader in (
        ("records", lambda path: read_records(path, "prose_held_out_0", chosen)),
        ("codecs", lambda path: load_codecs(path, chosen)),
    ):
        whole = Path(sketched[name]).read_bytes()
        broken = tmp_path / f"{name}.part"
        broken.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(TableError, match=f"{name}.part"):
            reader(broken)
    with pytest.raises(TableError, match="lacks the codecs pca_4"):
        load_codecs(sketched["codecs"], [CodecSpec("pca", 4)])
    renamed = {name.replace("/0/", "/9/"): array for name, array in load_tensors(sketched["codecs"]).items()}
    save_tensors(renamed, tmp_path / "codecs.safetensors", {})
    with pytest.raises(TableError, match=f"codecs.safetensors.*{chosen[0].key}"):
        load_codecs(tmp_path / "codecs.safetensors", chosen)
