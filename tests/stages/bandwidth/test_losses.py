"""Losses on captures are those of the deciders that run in the model, query by query."""

import numpy as np
import polars as pl
import pytest

from ghostkv.captures.capture_files import read_layer
from ghostkv.codecs.records import CodecSpec, load_codecs
from ghostkv.files.io import read_table
from ghostkv.quantised.by_name import CACHE_TYPES
from ghostkv.runtime.deciders import Call
from ghostkv.runtime.ghost_decider import GhostDecider, GhostFrames
from ghostkv.runtime.quantised import OverCache, WholeCache
from ghostkv.runtime.traffic import COLUMNS, made
from ghostkv.stages.bandwidth.jobs import CacheLosses
from ghostkv.stages.bandwidth.losses import cache_losses
from tests.stages.conftest import make_sketch

SPEC = CodecSpec("transform_code", 4)
JOB = {
    "headline": SPEC, "layers": [1], "sinks": 2, "hot": 8, "start": 40, "queries": 5, "whole": ["int4", "kivi2"],
    "under": ["fp16", "int8"], "thetas": [-2.0, 0.0], "code": "f",
}  # fmt: skip


@pytest.fixture(scope="module")
def measured(captures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("losses")
    sketch = make_sketch(captures, 1, [SPEC], folder)
    job = CacheLosses.read(JOB | {"captures": captures})
    cache_losses(job, {"codecs": [sketch["codecs"]]}, {"losses": str(folder / "losses.parquet")})
    fitted = load_codecs(sketch["codecs"], [SPEC])
    capture = read_layer(captures[2]["folder"], 1)
    return read_table(folder / "losses.parquet"), capture, [fitted[SPEC, h] for h in range(capture.kv_heads)]


def decided(capture, decider, sinks: int, hot: int) -> dict[str, float]:
    """Means over the job's queries of what a decider reads and loses, each query a call of its own."""
    late = np.flatnonzero(capture.positions >= 40)
    rows, errors = [], []
    for index in late[np.linspace(0, len(late) - 1, 5).astype(int)]:
        position = int(capture.positions[index])
        keys, values = (
            one[None, :, : position + 1].astype(np.float32) for one in (capture.keys, capture.values)
        )
        query = np.ascontiguousarray(capture.queries[None, :, index : index + 1])
        call = Call(
            query, np.ascontiguousarray(keys), np.ascontiguousarray(values), np.zeros(1, np.int64), position, capture.scale,
            capture.softcap, sinks, hot, True, 1,
        )  # fmt: skip
        out, counts = decider.attend(decider.start(), call)
        rows.append(dict(zip(COLUMNS, made(counts)[0], strict=False)))
        for head in range(capture.heads):
            own = head // capture.group
            logits = capture.scale * keys[0, own].astype(np.float64) @ query[0, head, 0]
            mass = np.exp(logits - logits.max())
            exact = mass @ values[0, own] / mass.sum()
            errors.append(np.linalg.norm(out[0, 0, head] - exact) / np.linalg.norm(exact))
    read = [row["records"] + row["survivor_bytes"] + row["hot"] for row in rows]
    return {
        "bytes_ratio_gqa": np.mean([one / row["full"] for one, row in zip(read, rows, strict=True)]),
        "share_group": np.mean([row["united"] / row["cold"] for row in rows]),
        "share_head": np.mean([row["survivors"] / capture.group / row["cold"] for row in rows]),
        "output_error": np.mean(errors),
    }


@pytest.mark.parametrize("cache", ["fp16", "int8"])
@pytest.mark.parametrize("theta", [-2.0, 0.0])
def test_under_records_a_loss_is_that_of_the_policy(measured, cache, theta):
    table, capture, codecs = measured
    ghosts = GhostDecider(
        GhostFrames.of(codecs), np.full(capture.heads, theta, np.float32), compensate=True, per_key=True
    )
    decider = ghosts if cache == "fp16" else OverCache(ghosts, CACHE_TYPES[cache])
    row = table.row(by_predicate=(pl.col("cache") == cache) & (pl.col("theta") == theta), named=True)
    assert 0 < row["share_head"] <= row["share_group"] < 1
    found = decided(capture, decider, 2, 8)
    assert {name: row[name] for name in found} == pytest.approx(found, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("cache", ["int4", "kivi2"])
def test_a_cache_read_whole_is_that_of_the_policy(measured, cache):
    table, capture, _ = measured
    row = table.row(by_predicate=(pl.col("cache") == cache) & pl.col("theta").is_null(), named=True)
    for name, value in decided(capture, WholeCache(CACHE_TYPES[cache]), 2, 8).items():
        assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert row["dropped_mass"] == 0


def test_a_higher_theta_reads_less_and_drops_more(measured):
    table, _, _ = measured
    for _, rows in table.filter(pl.col("theta").is_not_null()).group_by("cache"):
        low, high = rows.sort("theta").iter_rows(named=True)
        assert low["bytes_ratio_gqa"] > high["bytes_ratio_gqa"]
        assert low["dropped_mass"] < high["dropped_mass"]
