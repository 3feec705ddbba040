"""A capture folder: proved, named, atomic, the same bytes every time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from ghostkv.captures.capture_files import capture_metadata, read_layer, read_layers_table  # noqa: E402
from ghostkv.captures.positions import sample_positions  # noqa: E402
from ghostkv.config.capture import QueryBand  # noqa: E402
from ghostkv.files.errors import CaptureError, ConfigError, ModelError, TextError  # noqa: E402
from ghostkv.stages.capture.jobs import CaptureText  # noqa: E402
from ghostkv.stages.capture.text import capture_text  # noqa: E402
from ghostkv.stages.model.fetch import fetch_model  # noqa: E402
from ghostkv.stages.model.jobs import FetchModel  # noqa: E402
from tests.stages.conftest import write_texts

BANDS = [{"start": 16, "stop": 64, "count": 4}, {"start": 64, "stop": 128, "count": 12}]
PARAMS = {
    "text": "a_held_out_0",
    "tokens": 128,
    "layers": [0, 1],
    "query_bands": BANDS,
    "tolerance": 1e-3,
    "cache_dtype": "float16",
    "seed": 0,
    "dtype": "float32",
    "device": "cpu",
    "chunk": None,
    "code": "abc",
}
ENTRY = {"source": "random", "layers": 2, "heads": 4, "head_dim": 16, "max_context": 1024, "seed": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("capture")
    for name, extra in {
        "llama": {"architecture": "llama", "kv_heads": 2},
        "gpt2": {"architecture": "gpt2", "kv_heads": 4},
    }.items():
        job = FetchModel.read({"name": name, "entry": ENTRY | extra})
        fetch_model(job, {}, {"manifest": str(folder / name / "manifest.json")})
    content = "GhostKV keeps a tiny witness of every cold key. " * 20
    row = {"text": "a_held_out_0", "domain": "a", "role": "held_out", "documents": ["d"], "content": content}
    write_texts([row, row | {"text": "short", "content": "too short"}], folder / "texts.parquet")
    return folder


def files(folder: Path) -> dict[str, str]:
    return {name: str(folder / f"{name}.parquet") for name in ("kv", "queries", "layers")}


def inputs(place: Path, model: str = "llama") -> dict[str, str]:
    return {"manifest": str(place / model / "manifest.json"), "texts": str(place / "texts.parquet")}


def run(place: Path, out: Path, model: str = "llama", **changes):
    capture_text(CaptureText.read(PARAMS | changes), inputs(place, model), files(out))
    return out


@pytest.mark.parametrize(("model", "kv_heads"), [("llama", 2), ("gpt2", 4)])
def test_a_capture_holds_all_keys_and_the_sampled_queries(place, tmp_path, model, kv_heads):
    layers = read_layers_table(run(place, tmp_path, model))
    assert layers["layer"].to_list() == [0, 1]
    assert layers["kind"].to_list() == ["global", "global"]
    assert layers["max_relative_error"].max() < 1e-4
    assert layers["recomputed"].to_list() == [4 * 16, 4 * 16]
    capture = read_layer(tmp_path, 1)
    assert capture.keys.shape == (kv_heads, 128, 16)
    assert capture.outputs.shape == (4, 16, 16)
    assert ((capture.positions < 64).sum(), (capture.positions >= 64).sum()) == (4, 12)
    assert np.isfinite(capture.keys).all()


def test_attention_recomputed_from_the_file_in_float64_is_the_models_own_output(place, tmp_path):
    capture = read_layer(run(place, tmp_path), 1)
    for head in range(capture.heads):
        keys, values = (x[head // capture.group].astype(np.float64) for x in (capture.keys, capture.values))
        for query, output, position in zip(
            capture.queries[head], capture.outputs[head], capture.positions, strict=True
        ):
            weights = np.exp(capture.scale * keys[: position + 1] @ query)
            own = weights @ values[: position + 1] / weights.sum()
            assert np.linalg.norm(own - output) < 1e-5 * np.linalg.norm(output)


def test_every_file_says_where_it_comes_from(place, tmp_path):
    run(place, tmp_path)
    manifest = json.loads((place / "llama" / "manifest.json").read_text())
    for path in files(tmp_path).values():
        stored = {key.decode(): value.decode() for key, value in pq.read_schema(path).metadata.items()}
        assert stored["model"] == "llama"
        assert stored["weight_sha256"] == manifest["weight_sha256"]
        assert stored["text"] == "a_held_out_0"
        assert len(stored["text_sha256"]) == 64
        assert stored["fingerprint"] == "abc"
        assert stored["package_version"]
    assert capture_metadata(tmp_path)["cache_dtype"] == "float16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("chunk", [None, 48])
def test_a_capture_of_any_type_in_any_pieces_is_proved_and_says_what_it_is(place, tmp_path, dtype, chunk):
    layers = read_layers_table(run(place, tmp_path, dtype=dtype, chunk=chunk))
    unit = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    assert unit / 2 < layers["max_relative_error"].max() < max(16 * unit, 1e-4)
    assert layers["unexplained_relative_error"].max() < 1e-4
    found = capture_metadata(tmp_path)
    assert (found["dtype"], found["device"]) == (dtype, "cpu")


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(place, tmp_path):
    with pytest.raises(ConfigError, match="model.device is cuda:99"):
        run(place, tmp_path, device="cuda:99")
    assert list(tmp_path.iterdir()) == []


def test_the_same_capture_twice_gives_the_same_bytes(place, tmp_path):
    first, second = run(place, tmp_path / "1/text"), run(place, tmp_path / "2/text")
    for name in ("kv", "queries", "layers"):
        assert (first / f"{name}.parquet").read_bytes() == (second / f"{name}.parquet").read_bytes()


def test_rounding_after_attention_fails_the_proof_and_leaves_nothing(place, tmp_path):
    with pytest.raises(
        CaptureError, match=r"layer 0: .*above capture.tolerance: 1e-05(.|\n)*cache_dtype: float16"
    ):
        run(place, tmp_path, cache_dtype="model", tolerance=1e-5)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_capture_leaves_an_older_one_whole(place, tmp_path):
    run(place, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CaptureError):
        run(place, tmp_path, cache_dtype="model", tolerance=1e-5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_killed_run_left_is_cleared_away(place, tmp_path):
    leftover = tmp_path / ".kv.parquet.99999.part"
    leftover.write_bytes(b"half a capture")
    run(place, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"kv.parquet", "queries.parquet", "layers.parquet"}


def test_a_capture_killed_at_any_moment_leaves_no_output(place, tmp_path):
    code = (
        "import os, signal, json, sys\n"
        "from ghostkv.captures.capture_files import CaptureWriter\n"
        "append = CaptureWriter.append\n"
        "def killed(self, capture, proof):\n"
        "    append(self, capture, proof)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "CaptureWriter.append = killed\n"
        "from ghostkv.stages.capture.jobs import CaptureText\n"
        "from ghostkv.stages.capture.text import capture_text\n"
        "params, *files = json.loads(sys.argv[1])\n"
        "capture_text(CaptureText.read(params), *files)\n"
    )
    arguments = [PARAMS, inputs(place), files(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, json.dumps(arguments)], capture_output=True)
    assert done.returncode == -9
    assert not list(tmp_path.glob("*.parquet"))
    undisturbed = run(place, tmp_path / "undisturbed" / tmp_path.name)
    for path in files(run(place, tmp_path)).values():
        assert Path(path).read_bytes() == (undisturbed / Path(path).name).read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_reads_back_differently_is_removed(place, tmp_path, monkeypatch):
    from ghostkv.captures import proven_writer

    def damaged(folder, layer):
        capture = read_layer(folder, layer)
        keys = capture.keys.copy()
        keys[0, 0, 0] += 1
        return type(capture)(**(vars(capture) | {"keys": keys}))

    monkeypatch.setattr(proven_writer, "read_layer", damaged)
    with pytest.raises(CaptureError, match="read back from disk"):
        run(place, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_text_too_short_for_the_context_is_refused(place, tmp_path):
    with pytest.raises(TextError, match=r"'short' has \d+ tokens.*fewer than capture.tokens: 128"):
        run(place, tmp_path, text="short")


def test_an_unknown_text_is_refused_with_the_known_ones(place, tmp_path):
    with pytest.raises(TextError, match="'nosuch'.*a_held_out_0, short"):
        run(place, tmp_path, text="nosuch")


def test_a_folder_without_manifest_is_refused(place, tmp_path):
    job = CaptureText.read(PARAMS | {"text": "short"})
    with pytest.raises(ModelError, match="manifest.json"):
        capture_text(job, inputs(place) | {"manifest": str(tmp_path / "manifest.json")}, files(tmp_path))


@given(seed=st.integers(0, 2**32), text=st.text(max_size=8), count=st.integers(1, 64))
@settings(max_examples=50)
def test_positions_are_distinct_ascending_in_band_and_stable(seed, text, count):
    bands = [QueryBand(start=64, stop=128, count=count)]
    positions = sample_positions(bands, text, seed)
    assert len(set(positions.tolist())) == count
    assert (np.diff(positions) > 0).all()
    assert positions.min() >= 64
    assert positions.max() < 128
    with_another = sample_positions([QueryBand(start=0, stop=8, count=2), *bands], text, seed)
    np.testing.assert_array_equal(with_another[2:], positions)


def test_naming_the_stage_does_not_import_torch():
    code = "import ghostkv.stages.capture.text, sys; print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
