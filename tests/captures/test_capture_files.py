"""A capture read back is the capture written, a layer at a time."""

import numpy as np
import pytest

from ghostkv.captures.capture_files import (
    CaptureWriter,
    LayerCapture,
    capture_metadata,
    read_layer,
    read_layers_table,
)
from ghostkv.captures.proven_writer import ProvenWriter
from ghostkv.files.errors import CaptureError, TableError
from ghostkv.files.io import sha256_file

PROOF = {
    "max_relative_error": 1e-6,
    "mean_relative_error": 1e-7,
    "layer_relative_error": 1e-7,
    "exact_relative_error": 1e-6,
    "storage_relative_error": 1e-3,
    "unexplained_relative_error": 1e-6,
    "recomputed": 12,
}


def make(layer, values=True, window=0):
    rng = np.random.default_rng(layer)
    return LayerCapture(
        layer=layer,
        keys=rng.normal(size=(2, 50, 8)).astype(np.float16),
        values=rng.normal(size=(2, 50, 4)).astype(np.float16) if values else None,
        queries=rng.normal(size=(6, 5, 8)).astype(np.float32),
        outputs=rng.normal(size=(6, 5, 4)).astype(np.float32) if values else None,
        positions=np.array([3, 9, 20, 33, 49], np.int32),
        scale=0.3,
        window=window,
        softcap=30.0 if window else 0.0,
    )


def write(folder, layers, value_dim=4):
    with CaptureWriter(folder, 8, value_dim, {"model": "m", "text": "t"}) as writer:
        for layer in layers:
            writer.append(layer, PROOF)


def test_layers_survive_the_file(tmp_path):
    layers = [make(2), make(5, window=16)]
    write(tmp_path, layers)
    for layer in layers:
        found = read_layer(tmp_path, layer.layer)
        for name, value in layer.__dict__.items():
            assert np.array_equal(getattr(found, name), value), name
            assert getattr(getattr(found, name), "dtype", None) == getattr(value, "dtype", None)
    described = read_layers_table(tmp_path)
    assert described["kind"].to_list() == ["global", "sliding"]
    assert described["max_relative_error"].to_list() == [1e-6, 1e-6]
    assert capture_metadata(tmp_path) == {"model": "m", "text": "t"}


def test_a_capture_without_values_reads_as_none(tmp_path):
    write(tmp_path, [make(0, values=False)], value_dim=0)
    found = read_layer(tmp_path, 0)
    assert found.values is None
    assert found.outputs is None
    assert read_layers_table(tmp_path)["value_dim"].to_list() == [0]


def test_groups_share_a_kv_head():
    layer = make(0)
    assert (layer.group, layer.heads, layer.kv_heads) == (3, 6, 2)
    assert np.array_equal(layer.group_queries(1), layer.queries[3:])


def test_a_sliding_window_hides_the_oldest_keys():
    assert make(0).first_visible().tolist() == [0] * 5
    assert make(0, window=16).first_visible().tolist() == [0, 0, 5, 18, 34]


def test_the_same_layers_give_the_same_bytes(tmp_path):
    folders = [tmp_path / place / "prose_codec_0" for place in ("one", "two")]
    for folder in folders:
        write(folder, [make(0), make(1)])
    for file in ("kv.parquet", "queries.parquet", "layers.parquet"):
        assert sha256_file(folders[0] / file) == sha256_file(folders[1] / file)


def test_a_capture_that_fails_leaves_nothing(tmp_path):
    def fail():
        with CaptureWriter(tmp_path / "x", 8, 4, {}) as writer:
            writer.append(make(0), PROOF)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "x").iterdir()) == []


def test_a_layer_that_was_not_captured_is_refused_with_those_that_were(tmp_path):
    write(tmp_path, [make(2), make(5)])
    with pytest.raises(TableError, match=r"no layer 3; the capture has layers \[2, 5\]"):
        read_layer(tmp_path, 3)


def test_a_truncated_capture_is_refused_by_file(tmp_path):
    write(tmp_path, [make(0)])
    path = tmp_path / "kv.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(TableError, match="rm '.*kv.parquet'"):
        read_layer(tmp_path, 0)


@pytest.mark.parametrize("some", [slice(1, None, 2), [1, 3], np.array([False, True, False, True, False])])
def test_a_capture_cut_to_some_queries_keeps_what_belongs_to_them(some):
    capture = make(0)
    cut = capture.at(some)
    assert cut.positions.tolist() == [9, 33]
    assert np.array_equal(cut.queries, capture.queries[:, [1, 3]])
    assert np.array_equal(cut.outputs, capture.outputs[:, [1, 3]])
    assert (cut.tokens, capture.at(some, 34).tokens, capture.at(some, 34).values.shape[1]) == (50, 34, 34)
    assert make(0, values=False).at(some, 34).values is None


@pytest.mark.parametrize("file", ["kv.parquet", "queries.parquet"])
def test_files_of_two_captures_of_one_text_are_refused_together(tmp_path, file):
    place, other = tmp_path / "here/t", tmp_path / "there/t"
    for folder, model in ((place, "m"), (other, "n")):
        with CaptureWriter(folder, 8, 4, {"model": model}) as writer:
            writer.append(make(0), PROOF)
    (place / file).write_bytes((other / file).read_bytes())
    with pytest.raises(TableError, match=f"{file}: it belongs to another capture"):
        read_layer(place, 0)


def spoiled(name, value):
    layer = make(2)
    array = getattr(layer, name).copy()
    array[1, 3, 2] = value
    return LayerCapture(**{**layer.__dict__, name: array})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["keys", "values", "queries", "outputs"])
def test_what_is_not_finite_is_neither_written_nor_read(tmp_path, name, value):
    owner = "KV head 1" if name in ("keys", "values") else "head 1"
    position = 3 if name in ("keys", "values") else 33
    expected = f"layer 2, {owner}: the {name} hold {value} at position {position}"
    with pytest.raises(CaptureError, match=expected), ProvenWriter(tmp_path / "new", {}, 1.0) as writer:
        writer.append(spoiled(name, value), PROOF)
    assert not list((tmp_path / "new").glob("*"))
    write(tmp_path, [spoiled(name, value)])
    with pytest.raises(CaptureError, match=expected):
        read_layer(tmp_path, 2)


def test_numbers_whose_scores_would_overflow_are_refused(tmp_path):
    write(tmp_path, [spoiled("queries", 1e25)])
    with pytest.raises(CaptureError, match="the queries hold 1e\\+25"):
        read_layer(tmp_path, 2)


@pytest.mark.parametrize("scale", [0.0, np.nan, np.inf])
def test_a_scale_that_is_none_is_refused(tmp_path, scale):
    write(tmp_path, [LayerCapture(**{**make(2).__dict__, "scale": scale})])
    with pytest.raises(CaptureError, match="layer 2 has scale"):
        read_layer(tmp_path, 2)
