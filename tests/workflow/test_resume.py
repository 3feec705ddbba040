"""A run that is killed in the middle of its jobs ends, once resumed, with the bytes of one that was not."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

FRONTIER = "results/frontier/safe_points.parquet"
REPORT = "results/report/headline.json"
# What is asked for in the end; what of it is made anew; and where runs are killed before: a job's log, which appears
# when the job starts, and the file that the run is asked for.
CASES = {
    "from a capture to the frontier": (
        FRONTIER,
        ("results/capture/prose_held_out_0", "results/sketch", "results/frontier"),
        {
            "results/logs/capture/prose_held_out_0.log": "results/capture/prose_held_out_0/kv.parquet",
            "results/logs/sketch/layer_01.log": "results/sketch/layer_01/records.parquet",
            "results/logs/frontier/layer_00.log": "results/frontier/layers/layer_00/points.parquet",
        },
    ),
    "report": (REPORT, ("results/report",), {"results/logs/report/report.log": REPORT}),
}


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every output, logs and what they measured left out."""
    files = [path for path in (folder / "results").rglob("*") if path.is_file() and "logs" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


THOROUGH = {"report": pytest.mark.thorough}


@pytest.mark.parametrize(
    ("target", "remade", "killed_in"),
    [pytest.param(*case, id=name, marks=THOROUGH.get(name, ())) for name, case in CASES.items()],
)
def test_killed_and_resumed_ends_with_the_same_bytes(project, target, remade, killed_in):
    killed = project.copied_run()
    for name in remade:
        shutil.rmtree(killed.folder / name)
    for log, output in killed_in.items():
        killed.kill_during(log, "--", output)
        assert not (killed.folder / output).exists()
    killed.snakemake("--", target)
    assert checksums(killed.folder) == checksums(project.folder)
    assert killed.planned("--", target) == {}
    assert not list((killed.folder / "results").rglob(".*.part"))
