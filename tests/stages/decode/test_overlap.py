"""The decode that reads what its buffer lacks: what it reads, what it times, and the same misses as one pass over the stack."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ghostkv.captures.capture_files import CaptureWriter
from ghostkv.codecs.records import save_codecs
from ghostkv.elimination.schemas import POINT_SCHEMA
from ghostkv.files.io import read_metadata, read_table
from ghostkv.files.tables import write_rows
from ghostkv.stages.decode import overlap as stage
from ghostkv.stages.decode.buffer import depths
from ghostkv.stages.decode.jobs import TimeOverlap
from tests.stages.conftest import PROOF, job_of
from tests.stages.decode.test_stage import CONFIG, OPTIONS, SPEC, decided, fitted, make_trace

STEPS, EVERY, SIZES = 48, 4, (4, 30, 500)
OVERLAP = {"steps": STEPS, "every": EVERY, "buffers": list(SIZES), "threads": 3, "rounds": 2}
THETA = -0.3


def timed(folder, capture, metadata=None):
    """The table of one layer."""
    metadata = {"model": "made", "text": "t", "text_sha256": "0", "fingerprint": "f"} | (metadata or {})
    with CaptureWriter(folder, 16, 16 if capture.values is not None else 0, metadata) as writer:
        writer.append(capture, PROOF)
    save_codecs({(SPEC, head): fitted(capture, head) for head in range(2)}, folder / "codecs", metadata)
    points = [
        {"layer": 0, "head": head, "codec": SPEC.name, "code_bytes": 4, "rule": "relative_topk", "method": "calibrated",
         "target_metric": "fer", "target": 0.01, "theta": THETA} for head in range(4)
    ]  # fmt: skip
    write_rows(points, folder / "points.parquet", POINT_SCHEMA, {})
    inputs = {
        "layers": folder / "layers.parquet",
        "codecs": folder / "codecs",
        "points": folder / "points.parquet",
    }
    job = replace(
        job_of(TimeOverlap, CONFIG | {"decode": OPTIONS | {"overlap": OVERLAP}}), layer=capture.layer
    )
    output = folder / "out/overlap.parquet"
    stage.time_overlap(job, {name: str(path) for name, path in inputs.items()}, {"overlap": str(output)})
    assert [path.name for path in output.parent.iterdir()] == ["overlap.parquet"]
    assert read_metadata(output)["model"] == "made"
    return read_table(output)


@pytest.fixture(scope="module")
def trace():
    return make_trace(0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory, trace):
    return timed(tmp_path_factory.mktemp("overlap"), trace)


def test_every_way_of_every_timed_step_is_timed(rows):
    assert set(rows["source"]) <= {"device", "page cache"}
    assert "page cache" in set(rows["source"])
    for (_, buffer), part in rows.group_by("source", "buffer"):
        assert buffer in SIZES
        assert part["step"].to_list() == list(range(EVERY - 1, STEPS, EVERY))
    always = rows.select(
        "serial_seconds", "apart_seconds", "overlapped_seconds", "held_seconds", "copy_seconds"
    )
    assert always.null_count().sum_horizontal().item() == 0
    assert (always.min_horizontal() > 0).all()
    asked = rows.filter(pl.col("requests") > 0)
    assert asked.height > 0
    for name in ("read", "device", "stream", "block"):
        assert (asked[f"{name}_seconds"] > 0).all()
        assert rows.filter(pl.col("requests") == 0)[f"{name}_seconds"].is_null().all()


def test_outputs_are_those_of_attention_in_one_piece(rows):
    assert 0 < rows["error"].max() < 1e-5


def test_a_step_misses_what_the_stack_says(rows, trace):
    last, whole = stage._last(trace, STEPS), []
    for kv_head in range(2):
        reads = decided(last, (THETA, THETA), kv_head, fitted(trace, kv_head)).reads
        whole.append((reads.ends, depths(reads)[0]))
    for size in SIZES:
        found = rows.filter(pl.col("buffer") == size, pl.col("source") == "page cache")
        for step, misses, held in found.select("step", "misses", "held").iter_rows():
            asked = np.concatenate([depth[ends[step - 1] : ends[step]] for ends, depth in whole])
            assert misses == (asked >= size).sum()
            assert held == (asked < size).sum() + 2 * (2 + 8)
    # 2 sinks and a hot window of 8 in each of two KV heads; the largest buffer holds all.
    assert rows.filter(pl.col("buffer") == 500)["misses"].sum() == 0
    assert rows.filter(pl.col("buffer") == 4)["misses"].min() > 0


def test_a_layer_that_slides_has_no_sinks(tmp_path):
    found = timed(tmp_path, make_trace(0, window=40))
    assert found["error"].max() < 1e-5
    assert found["misses"].sum() > 0


def test_without_values_there_is_nothing_to_time(tmp_path, trace):
    found = timed(tmp_path, replace(trace, values=None, outputs=None))
    assert found.height == 0


def test_a_disk_without_direct_reads_is_timed_from_the_page_cache_alone(tmp_path, trace, monkeypatch):
    monkeypatch.setattr(stage.Device, "under", classmethod(lambda cls, file: cls(False, False)))
    assert set(timed(tmp_path, trace)["source"]) == {"page cache"}


def test_the_least_time_counts_and_every_round_begins_with_another_way():
    order = []
    ways = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = stage._least(ways, 4)
    assert "".join(order) == "abcbcacababc"
    assert set(found) == {*"abc"}
    assert all(np.isfinite(list(found.values())))
