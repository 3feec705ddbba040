"""Kill the tiny run at random moments, resume it by the same command, and hold its tables against those of an undisturbed run.

    make kills                                    50 kills, about a quarter of an hour on two quiet cores
    python -m tests.workflow.kills --kills 10 --seed 7 --targets frontier

The runs are of a copy of the project, which may be edited meanwhile. A signal goes to Snakemake and all its jobs (as from Ctrl-C
and a batch system), to Snakemake alone, or to one job alone. A resumed run is killed again seconds later, until one is done before
its kill comes; it is compared, and the next begins in an empty folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from tests.workflow.conftest import Project, copy_project

ROOT = Path(__file__).parents[2]
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
RECEIVERS = ("all", "Snakemake", "a job")
# What a clock measured, or follows from it, is another number in every run.
TIMED_TABLES = re.compile(
    r"benchmark/|speed/|plan/|bandwidth/(fits|samples|errors|steps|crossings|maps|sensitivity)|store/(appends|gathers|kills)"
)
TIMED_COLUMNS = re.compile(r"seconds|speedup|per_second")


class Attempt:
    """One call of Snakemake on a folder, in a process group of its own."""

    def __init__(self, project: Project, folder: Path, targets: list[str]):
        folder.mkdir(exist_ok=True)
        if not (folder / "tests").exists():
            (folder / "tests").symlink_to(ROOT / "tests")
        self.said = folder / "said.txt"
        with open(self.said, "w") as out:
            self.process = subprocess.Popen(
                replace(project, folder=folder).command("--", *targets),
                cwd=project.root,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def jobs(self) -> dict[int, str]:
        """The jobs at work: their processes, and the stages that their logs belong to."""
        found = {}
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error, OSError):
                    log = Path(os.readlink(f"/proc/{child.pid}/fd/1"))
                    if "logs" in log.parts and "job.py" in " ".join(child.cmdline()):
                        found[child.pid] = log.parent.name
        return found

    def kill(self, name: str, receiver: str, chance: random.Random) -> list[str] | None:
        """Send a signal and return the stages at work; None, if there was nobody left to get it."""
        deadline = time.monotonic() + 60
        while receiver == "a job" and not self.jobs() and time.monotonic() < deadline:
            if self.process.poll() is not None:
                return None
            time.sleep(0.05)
        jobs, number = self.jobs(), getattr(signal, name)
        if self.process.poll() is not None:
            return None
        try:
            if receiver == "all":
                os.killpg(self.process.pid, number)
            elif receiver == "a job" and jobs:
                os.kill(chance.choice(sorted(jobs)), number)
            else:
                os.kill(self.process.pid, number)
        except ProcessLookupError:
            return None
        return sorted(set(jobs.values())) or ["between jobs"]


def differences(calm: Path, folder: Path) -> list[str]:
    """What of the tables and the headline figures differs from the undisturbed run, timings left out."""
    results = [run / "results" for run in (calm, folder)]
    names = [{str(path.relative_to(run)) for path in run.rglob("*.parquet")} for run in results]
    found = [f"{name}: only in one" for name in names[0] ^ names[1]]
    for name in sorted(name for name in names[0] & names[1] if not TIMED_TABLES.search(name)):
        tables = [pq.read_table(run / name) for run in results]
        kept = [column for column in tables[0].column_names if not TIMED_COLUMNS.search(column)]
        if not tables[0].select(kept).equals(tables[1].select(kept)):
            found.append(name)
    reports = [run / "report/headline.json" for run in results]
    figures = [json.loads(path.read_text()) if path.exists() else {} for path in reports]
    for name in sorted(figures[0].keys() | figures[1].keys()):
        source = str((figures[0].get(name) or figures[1].get(name))["source"])
        timed = TIMED_TABLES.search(source) or TIMED_COLUMNS.search(source)
        if not timed and figures[0].get(name) != figures[1].get(name):
            found.append(f"headline.json: {name}")
    return found


def leftovers(folder: Path) -> list[str]:
    """Files that a run which is done should not leave."""
    parts = [path for room in ("results", "resources") for path in (folder / room).rglob("*.part*")]
    state = folder / ".snakemake"
    marks = [path for room in ("locks", "incomplete", "runs") for path in (state / room).glob("*")]
    return [str(path.relative_to(folder)) for path in parts + marks]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="+", default=["results"])
    parser.add_argument(
        "--folder", type=Path, help="an empty folder for the runs, instead of one of the system's"
    )
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    base = asked.folder or Path(tempfile.mkdtemp(prefix="kills_"))
    print(f"seed {asked.seed}, {asked.kills} kills, in {base}", flush=True)

    begun = time.monotonic()
    project = copy_project(base / "project", base / "calm")
    calm = Attempt(project, base / "calm", asked.targets)
    while not calm.jobs() and calm.process.poll() is None:
        time.sleep(0.05)
    planning = time.monotonic() - begun
    if calm.process.wait() != 0:
        sys.exit(f"the undisturbed run failed:\n{calm.said.read_text()}")
    whole = time.monotonic() - begun
    print(f"undisturbed: {whole:.0f} s, {planning:.1f} s of them before the first job", flush=True)
    # About twenty kills a run, so that they fall on all of its stages.
    pause = planning + max(4, (whole - planning) / 20)

    sent, fell, faults, number, chains = Counter(), Counter(), [], 0, 0
    while number < asked.kills:
        chains += 1
        folder = Path(tempfile.mkdtemp(prefix="killed_", dir=base))
        done = False
        while not done:
            attempt = Attempt(project, folder, asked.targets)
            if number < asked.kills:
                name, receiver = chance.choice(SIGNALS), chance.choice(RECEIVERS)
                with suppress(subprocess.TimeoutExpired):
                    attempt.process.wait(0.3 + chance.expovariate(1 / pause))
                stages = attempt.kill(name, receiver, chance)
            else:
                stages = None
            code = attempt.process.wait()
            if stages is None:
                if done := code == 0:
                    continue
                faults.append(f"kill {number} was not resumed:\n{attempt.said.read_text()}")
                break
            number += 1
            sent[name, receiver] += 1
            fell.update(stages)
            print(f"{number:3} {name} to {receiver} in {', '.join(stages)}", flush=True)
        if done:
            faults += [f"{folder}: differs: {one}" for one in differences(base / "calm", folder)]
            faults += [f"{folder}: left: {one}" for one in leftovers(folder)]

    lost = sum("not resumed" in fault for fault in faults)
    print(f"\n{chains} runs killed {number} times in all; {number - lost} times resumed by the same command")
    print("\n| signal | " + " | ".join(f"to {one}" for one in RECEIVERS) + " |\n|:--|--:|--:|--:|")
    for name in SIGNALS:
        print(f"| {name} | " + " | ".join(str(sent[name, one]) for one in RECEIVERS) + " |")
    print(
        "\nat work when the signal came: "
        + ", ".join(f"{stage} {count}" for stage, count in fell.most_common())
    )
    print(
        "\n".join(faults)
        or "every run ended in the tables of the undisturbed one, and none left a file behind"
    )
    print(f"{time.monotonic() - begun:.0f} s")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
