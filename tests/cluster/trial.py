"""The tiny workflow on a Slurm of one node as a user would run it, held against a local run: tests/cluster/run."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.slurm import Cluster
from tests.workflow.conftest import copy_project
from tests.workflow.kills import TIMED_TABLES, differences, leftovers

ROOT = Path(__file__).parents[2]
TINY = ["--configfile", str(ROOT / "tests/config/tiny.yaml")]
LIMIT = 900  # seconds of a run


class Runs:
    """Runs of a copy of the project, each in a folder of its own."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.base = cluster.folder / "runs"
        shutil.rmtree(self.base, ignore_errors=True)  # of an earlier trial
        self.project = copy_project(self.base / "project", self.base / "local")
        self.started: list[subprocess.Popen] = []

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self.started:
            run.kill()
            run.wait()

    def local(self) -> Path:
        folder = self.base / "local"
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--cores",
            "2",
            *TINY,
            "--directory",
            str(folder),
            "results",
        ]
        subprocess.run(command, cwd=self.project.root, check=True, capture_output=True, timeout=LIMIT)
        return folder

    def start(self, folder: Path, target: str) -> subprocess.Popen:
        """A run on the cluster; what it says goes into said.txt of its folder."""
        folder.mkdir(exist_ok=True)
        if not (folder / "tests").exists():
            (folder / "tests").symlink_to(ROOT / "tests")
        command = [str(self.cluster.folder / "venv/bin/python"), "-m", "snakemake"]
        command += ["--workflow-profile", "workflow/profiles/slurm", "--cores", "2"]
        # There is no accounting; and nobody else asks this controller anything.
        command += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"]
        with open(folder / "said.txt", "a") as said:
            run = subprocess.Popen(
                [*command, *TINY, "--directory", str(folder), target],
                cwd=self.project.root,
                env=os.environ | {"PATH": self.cluster.path()},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        self.started.append(run)
        return run

    def whole(self, folder: Path, target: str) -> None:
        """A run that nothing disturbs."""
        end(self.start(folder, target), folder)
        print(f"through Slurm: {counts(folder)}", flush=True)

    def disturbed(self, folder: Path) -> list[str]:
        """A run whose Snakemake is killed while it captures, and whose node dies while it sketches: what went wrong."""
        run = self.start(folder, "frontier")
        wait_for(run, folder, "results/logs/capture/*.log")
        run.kill()
        run.wait()
        orphans = {job for job, state in self.cluster.states().items() if state in ("RUNNING", "PENDING")}
        print(f"Snakemake killed, and {len(orphans)} of its submissions are left without it", flush=True)
        run = self.start(folder, "frontier")
        wait_for(run, folder, "results/logs/sketch/*.log")
        lost = self.cluster.kill_node()
        print(f"the same command again; node killed, and with it {lost} processes of jobs", flush=True)
        self.cluster.wait_for_death()
        self.cluster.start_node()
        end(run, folder)
        print(f"node back, and the run went on to its end: {counts(folder)} in all", flush=True)
        states = {self.cluster.states().get(job) for job in orphans}
        print(f"what the killed Snakemake had left ended as {', '.join(map(str, states))}", flush=True)
        return [] if states == {"FAILED"} else [f"{folder.name}: jobs of a killed run went on: {states}"]


def end(run: subprocess.Popen, folder: Path) -> None:
    if run.wait(timeout=LIMIT):
        sys.exit(f"a run on the cluster failed:\n{(folder / 'said.txt').read_text()}")


def wait_for(run: subprocess.Popen, folder: Path, pattern: str) -> None:
    """Until a run has a file, which it must have before it ends."""
    while not any(folder.glob(pattern)):
        if run.poll() is not None:
            sys.exit(f"no {pattern} when the run ended:\n{(folder / 'said.txt').read_text()}")
        time.sleep(0.1)


def counts(folder: Path) -> str:
    said = (folder / "said.txt").read_text()
    jobs = sum(map(int, re.findall(r"^(\d+) jobs?:", said, re.MULTILINE)))
    return f"{jobs} jobs in {said.count('submitted with SLURM jobid')} submissions and where Snakemake ran"


def compare(local: Path, folder: Path, part: bool) -> list[str]:
    """What differs from the local run: tables, timings left out, and headline figures; of a part, the tables that it has."""
    tables = {str(path.relative_to(folder / "results")) for path in folder.glob("results/**/*.parquet")}
    found = differences(local, folder)
    if part:
        found = [one for one in found if one.partition(":")[0] in tables]
    same = [name for name in tables if not TIMED_TABLES.search(name)]
    print(f"{len(same)} tables compared with the local run's: {len(found)} differ", flush=True)
    left = [f"left: {name}" for name in leftovers(folder)]
    return [f"{folder.name}: {one}" for one in found + left]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, required=True, help="where tests/cluster/run --set-up put what it takes"
    )
    parser.add_argument(
        "--against", type=Path, help="a finished local run; then only the frontier is run on the cluster"
    )
    asked = parser.parse_args()
    # As on Ctrl-C, so that nothing is left at work.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    with Cluster(asked.folder.absolute()) as cluster, Runs(cluster) as runs:
        size = cluster.says("sinfo", "-ho", "%D node, %c CPUs, %m MB")
        print(cluster.says("sinfo", "--version"), size, sep=", ", flush=True)
        if asked.against:
            runs.whole(runs.base / "frontier", "results/frontier/points.parquet")
            faults = compare(asked.against, runs.base / "frontier", part=True)
        else:
            local = runs.local()
            runs.whole(runs.base / "results", "results")
            faults = compare(local, runs.base / "results", part=False)
            faults += runs.disturbed(runs.base / "disturbed")
            faults += compare(local, runs.base / "disturbed", part=True)
    sys.exit("\n".join(faults) or None)


if __name__ == "__main__":
    main()
