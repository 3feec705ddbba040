"""A run that is killed in the middle of its jobs ends, once resumed, with the bytes of one that was not."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

# Where a run is killed, in the order of the pipeline: a job's log appears when the job starts.
KILLED_IN = (
    "results/logs/capture/prose_held_out_0.log",
    "results/logs/sketch/layer_01.log",
    "results/logs/frontier/layer_00.log",
    "results/logs/frontier/gather.log",
    "results/logs/report/report.log",
)
REMADE = ("results/capture/prose_held_out_0", "results/sketch", "results/frontier", "results/report")


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every output, logs and what they measured left out."""
    files = [path for path in (folder / "results").rglob("*") if path.is_file() and "logs" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_killed_and_resumed_ends_with_the_same_bytes(project, tmp_path):
    killed = project.copied_run(tmp_path / "run")
    for name in REMADE:
        shutil.rmtree(killed.folder / name)
    for log in KILLED_IN:
        killed.kill_during(log, "--quiet", "all")
    killed.snakemake("--quiet", "all")
    assert checksums(killed.folder) == checksums(project.folder)
    assert killed.planned() == {}
    assert not list((killed.folder / "results").rglob(".*.part"))
