"""A run that is killed in the middle of its jobs ends, once resumed, with the bytes of one that was not."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

REMADE = ("results/capture/prose_held_out_0", "results/sketch", "results/frontier", "results/report")
# Where a run is killed: a job's log, which appears when the job starts, and the file that the run is asked for.
KILLED_IN = {
    "results/logs/capture/prose_held_out_0.log": "results/capture/prose_held_out_0/kv.parquet",
    "results/logs/sketch/layer_01.log": "results/sketch/layer_01/records.parquet",
    "results/logs/frontier/layer_00.log": "results/frontier/layers/layer_00/points.parquet",
    "results/logs/report/report.log": "results/report/headline.json",
}


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every output, logs and what they measured left out."""
    files = [path for path in (folder / "results").rglob("*") if path.is_file() and "logs" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_killed_and_resumed_ends_with_the_same_bytes(project, tmp_path):
    killed = project.copied_run(tmp_path / "run")
    for name in REMADE:
        shutil.rmtree(killed.folder / name)
    for log, output in KILLED_IN.items():
        killed.kill_during(log, "--", output)
        assert not (killed.folder / output).exists()
    killed.snakemake()
    assert checksums(killed.folder) == checksums(project.folder)
    assert killed.planned() == {}
    assert not list((killed.folder / "results").rglob(".*.part"))
