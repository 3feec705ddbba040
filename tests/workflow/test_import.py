"""Tensors that a lab already has go through the same workflow as a capture of a model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

TOKENS, HEADS, KV_HEADS, WIDTH, LAYER = 512, 4, 2, 16, 3


@pytest.fixture
def folders(tmp_path):
    """A folder of .npz files for each role, one layer each."""
    for number, role in enumerate(("codec", "threshold", "held_out")):
        rng = np.random.default_rng(number)
        folder = tmp_path / role
        folder.mkdir()
        q, k, v = (rng.normal(size=(heads, TOKENS, WIDTH)) for heads in (HEADS, KV_HEADS, KV_HEADS))
        arrays = {"q": q.astype(np.float32), "k": k.astype(np.float16), "v": v.astype(np.float16)}
        np.savez(folder / "mine.npz", layer_idx=LAYER, **arrays)
    return [
        {"folder": str(tmp_path / role), "domain": "mine", "role": role}
        for role in ("codec", "threshold", "held_out")
    ]


def test_imported_tensors_reach_the_frontier(project, folders, tmp_path):
    run = replace(project, folder=tmp_path / "run")
    config = ["--config", "capture=" + json.dumps({"import": folders, "layers": "all"})]
    run.snakemake(*config, "--", "results/frontier/safe_points.parquet")
    safe = pq.read_table(run.folder / "results/frontier/safe_points.parquet")
    assert set(safe["layer"].to_pylist()) == {LAYER}
    assert set(safe["head"].to_pylist()) == set(range(HEADS))
    assert not (run.folder / "resources").exists()


def test_a_layer_that_a_folder_lacks_is_refused(project, folders):
    config = "capture=" + json.dumps({"import": folders, "layers": [0]})
    done = project.snakemake("--dry-run", "--config", config, check=False)
    assert done.returncode == 1
    assert f"Write: layers: [{LAYER}]" in done.stdout + done.stderr
