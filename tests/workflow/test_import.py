"""Tensors that a lab already has go through the same workflow as a capture of a model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

TOKENS, HEADS, KV_HEADS, WIDTH, LAYER = 512, 4, 2, 16, 3
SOME = [0, 4, 8]
ROLES = ("codec", "threshold", "held_out")


@pytest.fixture
def folders(tmp_path):
    """A folder of .npz files for each role, one layer each."""
    for number, role in enumerate(ROLES):
        rng = np.random.default_rng(number)
        folder = tmp_path / role
        folder.mkdir()
        q, k, v = (rng.normal(size=(heads, TOKENS, WIDTH)) for heads in (HEADS, KV_HEADS, KV_HEADS))
        arrays = {"q": q.astype(np.float32), "k": k.astype(np.float16), "v": v.astype(np.float16)}
        np.savez(folder / "mine.npz", layer_idx=LAYER, **arrays)
    return [{"folder": str(tmp_path / role), "domain": "mine", "role": role} for role in ROLES]


def test_imported_tensors_reach_the_frontier(project, folders, tmp_path):
    run = replace(project, folder=tmp_path / "run")
    config = ["--config", "capture=" + json.dumps({"import": folders, "layers": "all"})]
    run.snakemake(*config, "--", "results/frontier/safe_points.parquet")
    safe = pq.read_table(run.folder / "results/frontier/safe_points.parquet")
    assert set(safe["layer"].to_pylist()) == {LAYER}
    assert set(safe["head"].to_pylist()) == set(range(HEADS))
    assert not (run.folder / "resources").exists()


@pytest.fixture
def some_heads(tmp_path):
    """The same with a file for each of some heads."""
    rng = np.random.default_rng(0)
    for role in ROLES:
        folder = tmp_path / f"some_{role}"
        folder.mkdir()
        for head in SOME:
            q, k, v = (rng.normal(size=(TOKENS, WIDTH)).astype(np.float16) for _ in range(3))
            np.savez(folder / f"layer{LAYER:02d}_head{head:02d}.npz", q=3 * q, k=k, v=v)
    return [{"folder": str(tmp_path / f"some_{role}"), "domain": "mine", "role": role} for role in ROLES]


def test_some_heads_keep_their_numbers_in_every_table(project, some_heads, tmp_path):
    run = replace(project, folder=tmp_path / "run")
    config = ["--config", "capture=" + json.dumps({"import": some_heads, "layers": "all"})]
    wanted = [f"results/{stage}/{stage}.parquet" for stage in ("certificates", "calibrated", "peers")]
    run.snakemake(*config, "--", "results/frontier/layer_head.parquet", *wanted)
    numbered = 0
    for path in (run.folder / "results").rglob("*.parquet"):
        table = pl.read_parquet(path)
        for column in {"head", "kv_head", "worst_head"} & set(table.columns):
            numbered += table.height > 0
            assert table[column].unique().sort().to_list() == SOME * (table.height > 0), (path, column)
    assert numbered > 20
    # One threshold text, whose queries from the headline's start on are all drawn.
    points = pl.read_parquet(run.folder / "results/calibrated/calibrated.parquet")
    assert set(points["calibration_queries"]) == {TOKENS - 256}
    assert points["guaranteed_if_exchangeable"].any()


def test_a_run_of_everything_says_what_it_leaves_out_and_runs_the_rest(project, some_heads, tmp_path):
    run = replace(project, folder=tmp_path / "run")
    config = ["--config", "capture=" + json.dumps({"import": some_heads, "layers": "all"})]
    said = run.snakemake(*config, "--until", "import_tensors", "--", "results").stdout
    (line,) = (line for line in said.splitlines() if line.startswith("Left out"))
    assert all(
        stage in line for stage in ("quality", "retrieval", "decode", "demo", "trace", "capture.import")
    )
    assert (
        "Left out" not in run.snakemake(*config, "--until", "import_tensors", "-F", "--", "frontier").stdout
    )


def test_the_trace_of_tensors_is_refused(project, some_heads):
    config = "capture=" + json.dumps({"import": some_heads, "layers": "all"})
    for target in ("trace", "results/trace/kv.parquet"):
        done = project.snakemake("--dry-run", "--config", config, "--", target, check=False)
        assert done.returncode == 1
        assert "leave out capture.import" in done.stdout


def test_a_layer_that_a_folder_lacks_is_refused(project, folders):
    config = "capture=" + json.dumps({"import": folders, "layers": [0]})
    done = project.snakemake("--dry-run", "--config", config, check=False)
    assert done.returncode == 1
    assert f"Write: layers: [{LAYER}]" in done.stdout + done.stderr
