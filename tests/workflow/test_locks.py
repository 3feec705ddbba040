"""A lock is removed where its owner is proved dead; a lock of anyone else stays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from ghostkv.files.processes import identity
from workflow.locks import Claim, Claims, _locks

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(identity() is None, reason="this system does not say who a process is")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the two locks that Snakemake takes for a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    (tmp_path / ".snakemake/runs").mkdir()
    for kind in ("input", "output"):
        (tmp_path / f".snakemake/locks/0.{kind}.lock").write_text("results/x.parquet\n")
    return tmp_path


@pytest.fixture(scope="module")
def dead():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = identity(process.pid)
    process.communicate(b"\n")
    return name


def claim(folder, name: str, process: dict, before=(), taken=None) -> None:
    text = json.dumps(asdict(Claim(process, list(before), taken)))
    (folder / f".snakemake/runs/{name}.json").write_text(text)


def entered() -> Claims:
    claims = Claims()
    claims.enter()
    return claims


def test_the_locks_of_a_killed_run_are_removed(folder, dead):
    claim(folder, "killed", dead)
    entered()
    assert _locks() == {}
    assert not (folder / ".snakemake/runs/killed.json").exists()


@pytest.mark.parametrize(
    "other",
    [identity() or {}, {"boot": "another", "pid": 1}, {}],
    ids=["alive", "on another machine", "without a name"],
)
def test_no_lock_is_removed_while_another_run_may_live(folder, dead, other):
    claim(folder, "killed", dead)
    claim(folder, "other", other)
    entered()
    assert len(_locks()) == 2
    (folder / ".snakemake/runs/other.json").unlink()
    entered()
    assert _locks() == {}


def test_a_lock_without_a_claim_stays(folder):
    entered()
    assert len(_locks()) == 2


def test_a_claim_that_cannot_be_read_proves_nothing(folder):
    (folder / ".snakemake/runs/cut.json").write_text('{"process": {"pid"')
    entered()
    assert len(_locks()) == 2


def test_a_lock_that_stood_there_before_the_killed_run_stays(folder, dead):
    claim(folder, "killed", dead, before=[_locks()["0.input.lock"]])
    entered()
    assert _locks().keys() == {"0.input.lock"}


def test_of_a_run_that_said_what_it_took_only_that_is_removed(folder, dead):
    claim(folder, "killed", dead, taken=[_locks()["0.output.lock"]])
    entered()
    assert _locks().keys() == {"0.input.lock"}


def test_a_lock_taken_anew_is_not_the_one_of_the_killed_run(folder, dead):
    claim(folder, "killed", dead, taken=list(_locks().values()))
    (folder / ".snakemake/locks/0.input.lock").unlink()
    (folder / ".snakemake/locks/0.input.lock").write_text("results/y.parquet\n")
    entered()
    assert _locks().keys() == {"0.input.lock"}


def test_a_run_says_what_it_took_and_takes_its_claim_away(folder):
    claims = entered()
    lock = str(folder / ".snakemake/locks/0.output.lock")
    claims.took(SimpleNamespace(persistence=SimpleNamespace(_lockfile={"output": lock})))
    (path,) = (folder / ".snakemake/runs").glob("*.json")
    said = json.loads(path.read_text())
    assert said["process"] == identity()
    assert said["taken"] == [_locks()["0.output.lock"]]
    claims._leave(identity()["pid"])
    assert not path.exists()


def test_who_unlocks_says_that_no_run_lives(folder, monkeypatch):
    claim(folder, "elsewhere", {"boot": "another"})
    monkeypatch.setattr(sys, "argv", ["snakemake", "--unlock"])
    entered()
    assert not (folder / ".snakemake/runs/elsewhere.json").exists()


@pytest.mark.parametrize("there", [True, False], ids=["when it goes", "where it is gone"])
def test_a_job_on_another_machine_ends_with_its_runs_claim(folder, there):
    claims = entered()
    if not there:
        claims._leave(identity()["pid"])
    code = "from workflow.locks import end_with_claim as end; print(end(0.1), flush=True); input()"
    job = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert job.stdout.readline() == f"{there}\n".encode()
    assert job.poll() is None
    if there:
        claims._leave(identity()["pid"])
        assert job.wait(60) == -signal.SIGKILL
    job.communicate()


def test_two_runs_at_once_the_second_is_refused_and_a_dry_run_takes_no_lock_away(project):
    """The first is stopped in the middle, so that it lives on and does nothing."""
    run = project.copied_run()
    target = ["--force", "--", "results/sketch/layer_00/records.parquet"]
    first = subprocess.Popen(run.command(*target), cwd=run.root, stderr=subprocess.DEVNULL)
    try:
        log = run.folder / "results/logs/sketch/layer_00.log"
        log.unlink()
        while not log.exists():
            assert first.poll() is None
        locks = sorted((run.folder / ".snakemake/locks").iterdir())
        assert len(locks) == 2
        first.send_signal(signal.SIGSTOP)
        run.snakemake("--dry-run", *target)
        assert sorted((run.folder / ".snakemake/locks").iterdir()) == locks
        second = run.snakemake(*target, check=False)
        assert second.returncode == 1
        assert str(first.pid) in second.stdout
    finally:
        first.send_signal(signal.SIGCONT)
        assert first.wait(timeout=120) == 0
