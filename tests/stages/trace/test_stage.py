"""Stage trace on an untrained model: the queries of a decode, in order, from one forward pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from ghostkv.captures.capture_files import capture_metadata, read_layer  # noqa: E402
from ghostkv.config.experiment import load_config  # noqa: E402
from ghostkv.files.errors import ConfigError, TextError  # noqa: E402
from ghostkv.stages.capture.jobs import CaptureText  # noqa: E402
from ghostkv.stages.capture.text import capture_text  # noqa: E402
from ghostkv.stages.model.fetch import fetch_model  # noqa: E402
from ghostkv.stages.model.jobs import FetchModel  # noqa: E402
from ghostkv.stages.trace.jobs import TraceText  # noqa: E402
from ghostkv.stages.trace.text import trace_text  # noqa: E402
from tests.stages.conftest import write_texts

ENTRY = {"source": "random", "architecture": "llama", "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16}
PARAMS = {
    "text": "a_trace_0",
    "tokens": 128,
    "layers": [0, 1],
    "dtype": "float32",
    "device": "cpu",
    "chunk": None,
    "tolerance": 1e-3,
    "cache_dtype": "float16",
    "code": "abc",
}
TRACE = TraceText.read(PARAMS | {"steps": 40})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    job = FetchModel.read({"name": "llama", "entry": ENTRY | {"max_context": 512, "seed": 0}})
    fetch_model(job, {}, {"manifest": str(folder / "llama" / "manifest.json")})
    content = "Every query of a long text, one after the other. " * 20
    row = {"text": "a_trace_0", "domain": "a", "role": "trace", "documents": ["d"], "content": content}
    write_texts([row], folder / "texts.parquet")
    return folder


def inputs(place):
    return {"manifest": str(place / "llama" / "manifest.json"), "texts": str(place / "texts.parquet")}


def files(folder):
    return {name: str(folder / f"{name}.parquet") for name in ("kv", "queries", "layers")}


def test_a_trace_holds_every_query_of_the_last_steps(place, tmp_path):
    trace_text(TRACE, inputs(place), files(tmp_path))
    trace = read_layer(tmp_path, 1)
    np.testing.assert_array_equal(trace.positions, np.arange(88, 128))
    assert trace.queries.shape == (4, 40, 16)
    assert capture_metadata(tmp_path)["role"] == "trace"


def test_a_trace_is_a_capture_that_samples_all(place, tmp_path):
    trace_text(TRACE, inputs(place), files(tmp_path / "trace"))
    bands = [{"start": 88, "stop": 128, "count": 40}]
    sampled = CaptureText.read(PARAMS | {"query_bands": bands, "seed": 3})
    capture_text(sampled, inputs(place), files(tmp_path / "capture"))
    one, other = (read_layer(tmp_path / name, 0) for name in ("trace", "capture"))
    np.testing.assert_array_equal(one.queries, other.queries)
    np.testing.assert_array_equal(one.keys, other.keys)


def test_a_short_text_is_refused_and_leaves_nothing(place, tmp_path):
    with pytest.raises(TextError, match="fewer than"):
        trace_text(replace(TRACE, tokens=5000), inputs(place), files(tmp_path))
    assert not list(tmp_path.iterdir())


def test_defaults_follow_the_capture_and_the_model():
    config = load_config({})
    (entry,) = config.trace_text(8192).values()
    assert (entry["tokens"], entry["steps"], entry["domain"]) == (8192, 2048, "essays")
    (entry,) = config.trace_text(6000).values()
    assert (entry["tokens"], entry["steps"]) == (6000, 1500)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"tokens": 9000}, "tokens: 8192"),
        ({"tokens": 1024, "steps": 1024}, "steps: 2048"),
        ({"domain": "law"}, "trace.path"),
    ],
)
def test_a_trace_that_cannot_be_is_refused_with_what_to_write(section, says):
    with pytest.raises(ConfigError, match=says):
        load_config({"trace": section}).trace_text(8192)


def test_imported_tensors_have_no_trace():
    folders = [
        {"folder": "/data", "domain": "a", "role": role} for role in ("codec", "threshold", "held_out")
    ]
    assert load_config({"capture": {"import": folders}}).trace_text(8192) == {}
