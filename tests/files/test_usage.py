"""What a job took is what it took, and what was left idle is counted over the time in which something ran."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ghostkv.files.usage import CORES, Usage, idle_share, read_usage

SPEND = """
import sys, time
from pathlib import Path
from ghostkv.files.usage import Usage
import numpy as np
started = time.time()
held = np.ones(25_000_000)
begun = time.process_time()
while time.process_time() < begun + 0.4:
    pass
time.sleep(0.3)
Usage.so_far(started).write(Path(sys.argv[1]))
"""


def test_cpu_time_wall_time_and_memory_are_those_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv(CORES, "7")
    (tmp_path / "stage").mkdir()
    subprocess.run([sys.executable, "-c", SPEND, str(tmp_path / "stage" / "job.tsv")], check=True)
    ((used,),) = read_usage(tmp_path).values()
    # The interpreter and its imports come on top of the CPU time.
    assert used.cpu_time > 0.4
    assert used.s > 0.7
    assert 200 < used.max_rss < 600  # MB; the array has 200
    assert used.cores == 7


def test_what_is_no_usage_is_left_out(tmp_path):
    folder = tmp_path / "frontier"
    folder.mkdir()
    (folder / "other.tsv").write_text("s\tcpu_time\n1\t2\n")
    (folder / "torn.tsv").write_text("begun\ts\tcpu_time\tmax_rss\tcores\n1.0\t2")
    (folder / "empty.tsv").touch()
    assert read_usage(tmp_path) == {}
    Usage(1.0, 2.0, 3.0, 4.0, 5).write(folder / "whole.tsv")
    assert read_usage(tmp_path) == {"frontier": [Usage(1.0, 2.0, 3.0, 4.0, 5)]}


@pytest.mark.parametrize(
    ("jobs", "idle"),
    [
        # Two cores, one job that fills one of them.
        ([Usage(0.0, 10.0, 10.0, 1.0, 2)], 0.5),
        # The same beside another for half of the time.
        ([Usage(0.0, 10.0, 10.0, 1.0, 2), Usage(5.0, 5.0, 5.0, 1.0, 2)], 0.25),
        # A night between two jobs is nobody's.
        ([Usage(0.0, 10.0, 20.0, 1.0, 2), Usage(50_000.0, 10.0, 20.0, 1.0, 2)], 0.0),
        # One inside the other.
        ([Usage(0.0, 10.0, 6.0, 1.0, 1), Usage(2.0, 3.0, 3.0, 1.0, 1)], 0.1),
    ],
)
def test_idle_time_is_what_the_cores_had_left_while_jobs_ran(jobs, idle):
    assert idle_share(jobs) == pytest.approx(idle)
