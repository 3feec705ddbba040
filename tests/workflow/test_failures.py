"""A job of any stage that fails says why, and that is the last thing on the screen under the flags that make gives."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflow.conftest import Project
from tests.workflow.damages import planned
from tests.workflow.test_screen import make_flags

ROOT = Path(__file__).parents[2]
RUBBISH = "neither a table nor a model\n"
# Two stages read nothing that the workflow made, so there is nothing to spoil: the store, and the model of the tiny run.
UNREADING = ["model", "store"]
# A plan looks at sizes and at what jobs took, and opens no table. A comparison is of runs that other calls have made.
STAGES = sorted(
    {path.stem for path in (ROOT / "workflow/rules").glob("*.smk")}
    - {"common", "plan", "compare", *UNREADING}
)
# Each of the other stages says what is wrong by the same few functions.
QUICK = {"capture", "frontier", "quality", "report"}


@pytest.fixture(scope="module")
def jobs(project) -> list[dict]:
    """Every job of the workflow, with its files."""
    return planned(project.root / "Snakefile", project.folder, "results", "demo")


def stage_of(job: dict) -> str:
    """The stage that a job's code belongs to; the demonstration uses that of others."""
    if "each" in job["params"]:
        return ""
    home = job["params"]["job"].split(".")
    return "report" if job["rule"] == "report" else home[-3]


def files(named: dict) -> list[str]:
    """The files of a job that the workflow makes."""
    every = [path for one in named.values() for path in ([one] if isinstance(one, str) else one)]
    return [path for path in every if path.startswith(("results/", "resources/"))]


def spoil(run: Project, read: list[str], jobs: list[dict]) -> None:
    """Put rubbish in the place of all that a job reads, and of what is not there yet, so that no other job is to run."""
    now = time.time_ns()
    made = [path for job in jobs if not job["rule"].endswith("report") for path in files(job["outputs"])]
    for path in dict.fromkeys([*read, *made]):
        file = run.folder / path
        known = file.stat().st_mtime_ns if file.exists() else now
        if path in read or not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(RUBBISH)
            os.utime(file, ns=(known, known))


@pytest.mark.parametrize(
    "stage",
    [pytest.param(one, marks=() if one in QUICK else pytest.mark.thorough) for one in STAGES],
)
def test_the_message_of_a_failed_job_is_the_last_on_the_screen(project, jobs, stage):
    run, job = (
        project.copied_run(),
        next(job for job in jobs if stage_of(job) == stage and files(job["inputs"])),
    )
    read = files(job["inputs"])
    spoil(run, read, jobs)
    forced = ["--rerun-triggers", "mtime", "--force", "--", files(job["outputs"])[0]]
    done = run.snakemake(*make_flags(), *forced, check=False)
    assert done.returncode == 1
    message = last_message(job, done.stdout)
    # It names one of the spoilt files, or the model's folder.
    assert any(path in message or str(Path(path).parent) in message for path in read), message


def last_message(job: dict, screen: str) -> str:
    """What the screen ends with: what the job said, which is no traceback."""
    head, _, message = screen.rstrip().rpartition(" says:\n")
    assert head.splitlines()[-1].startswith(f"{job['rule']} "), screen
    assert not re.search("Traceback|CalledProcessError", screen)
    return message


@pytest.mark.parametrize("stage", UNREADING)
def test_a_stage_that_reads_nothing_says_so_when_the_disk_takes_no_more(project, jobs, stage):
    run, job = project.copied_run(), next(job for job in jobs if stage_of(job) == stage)
    forced = ["--rerun-triggers", "mtime", "--force", "--", files(job["outputs"])[0]]
    done = subprocess.run(
        run.command(*make_flags(), *forced),
        cwd=run.root,
        capture_output=True,
        text=True,
        check=False,
        # Room for Snakemake's own files, and for none of a store or a model.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, 32 << 10)),
    )
    assert done.returncode == 1
    message = last_message(job, done.stdout + done.stderr)
    assert os.strerror(errno.EFBIG) in message
