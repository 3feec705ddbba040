"""The Makefile on machines as they are: an interrupted set-up, a path that Snakemake cannot run from, a home folder of nobody."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Stands for Python: `-m venv` makes .venv/bin/python at once and its pip later, as the real one does.
PYTHON = """#!/bin/sh
case "$*" in
"-m venv .venv")
    mkdir -p .venv/bin; cp "$0" .venv/bin/python
    test ! -e slow || sleep 60
    touch .venv/pip ;;
"-m ensurepip") touch .venv/pip ;;
"-m pip --version") test -e .venv/pip ;;
"-m pip install"*) test -e .venv/pip && touch .venv/installed ;;
*) echo 1000 ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """What `make` reads of a clone, and a stand-in for Python."""
    folder = tmp_path / "clone"
    (folder / "resources").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "resources/constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    return folder


def make(folder: Path, *arguments: str, **more) -> subprocess.CompletedProcess:
    command = ["make", f"PYTHON={folder}/python", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | more)


def test_a_set_up_that_was_interrupted_is_begun_anew(clone):
    (clone / "slow").touch()
    command = ["make", f"PYTHON={clone}/python", ".venv/.ready"]
    with subprocess.Popen(command, cwd=clone, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while not (clone / ".venv/bin/python").exists():
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
    (clone / "slow").unlink()
    (clone / ".venv/half").touch()
    assert make(clone, ".venv/.ready").returncode == 0
    assert {"installed", ".ready"} <= set(os.listdir(clone / ".venv"))
    assert not {"half", ".begun"} & set(os.listdir(clone / ".venv"))


def test_an_environment_without_pip_gets_one(clone):
    (clone / ".venv/bin").mkdir(parents=True)
    shutil.copy(clone / "python", clone / ".venv/bin/python")
    assert make(clone, ".venv/.ready").returncode == 0
    assert (clone / ".venv/installed").exists()


@pytest.mark.parametrize("name", ["a b", "it's", 'a"b', "a$b", "a;b"])
def test_a_path_that_snakemake_runs_no_job_from_is_refused_at_once(clone, name):
    odd = clone.rename(clone.with_name(name))
    done = make(odd, "frontier")
    assert done.returncode == 2
    assert str(odd) in done.stderr
    assert not (odd / ".venv").exists()


def test_a_path_in_other_letters_is_accepted(clone):
    assert make(clone.rename(clone.with_name("größe-数据")), ".venv/.ready").returncode == 0


def test_the_long_run_is_of_both_models_and_names_both_pages(clone):
    lines = make(clone, "--dry-run", "long").stdout.splitlines()
    first, second = (
        next(number for number, line in enumerate(lines) if f"configs/{name}.yaml" in line)
        for name in ("long", "long_8k")
    )
    assert first < second
    # Snakemake names the page of the run that ends last.
    assert f"{clone}/results/long/results/report/report.html" in lines[second + 1]


@pytest.mark.parametrize(("home", "caches"), [("/proc/none", ".snakemake/cache"), (None, None)])
def test_snakemake_keeps_its_cache_here_where_the_home_folder_cannot_be_written(clone, home, caches):
    environment = {"HOME": home or str(clone / "home"), "XDG_CACHE_HOME": ""}
    shown = make(clone, "--print-data-base", "--dry-run", "clean", **environment).stdout
    found = [line for line in shown.splitlines() if line.startswith("XDG_CACHE_HOME :=")]
    assert found == ([f"XDG_CACHE_HOME := {clone}/{caches}"] if caches else [])
