"""Plain pass and capture are timed in turns, and what is written for the timing is gone afterwards."""

from __future__ import annotations

import polars as pl
import pytest

pytest.importorskip("torch")

from ghostkv.stages.benchmark.capture_overhead import capture_overhead  # noqa: E402
from ghostkv.stages.benchmark.jobs import CaptureOverhead  # noqa: E402
from ghostkv.stages.benchmark.schemas import OVERHEAD_SCHEMA  # noqa: E402
from ghostkv.stages.model.fetch import fetch_model  # noqa: E402
from ghostkv.stages.model.jobs import FetchModel  # noqa: E402
from tests.stages.conftest import write_texts

ENTRY = {"source": "random", "architecture": "llama", "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16}


def test_pairs_are_timed_and_nothing_is_left(tmp_path):
    job = FetchModel.read({"name": "tiny", "entry": ENTRY | {"max_context": 512, "seed": 0}})
    inputs = {"manifest": str(tmp_path / "tiny/manifest.json"), "texts": str(tmp_path / "texts.parquet")}
    fetch_model(job, {}, {"manifest": inputs["manifest"]})
    write_texts([{"text": "a", "content": "words of a text " * 40}], inputs["texts"])
    output = tmp_path / "out" / "capture_overhead.parquet"
    job = CaptureOverhead(tokens=128, repeats=2, dtype="float32", device="cpu", chunk=None, code="x")
    capture_overhead(job, inputs, {"capture_overhead": str(output)})
    table = pl.read_parquet(output)
    assert table.columns == OVERHEAD_SCHEMA.names
    assert table["pair"].to_list() == [0, 1]
    assert table["queries"].to_list() == [5, 5]
    assert (table["ratio"] == table["capture_seconds"] / table["plain_seconds"]).all()
    assert (table["plain_seconds"] > 0).all()
    assert [path.name for path in output.parent.iterdir()] == [output.name]
