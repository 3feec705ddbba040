"""The real Snakefile on a tiny model, run once for all tests here, from a copy that they may edit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("Snakefile", "config.yaml", "environment.yml", "ghostkv", "profiles", "workflow")
REGISTRIES = ("resources/models.yaml", "resources/texts.yaml")


# Snakemake takes two seconds to import and one to plan a tiny run, so a process that has imported it forks for each command.
_SERVER = """
import json, os, sys
from pathlib import Path
import snakemake.cli, snakemake.workflow, snakemake.report
import jsonschema, numpy, polars, pyarrow.parquet, pydantic, yaml
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(asked["cwd"])
        for number, name in ((0, os.devnull), (1, asked["said"]), (2, asked["said"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        sys.argv = ["snakemake", *asked["arguments"]]
        code = 1
        try:
            snakemake.cli.main(asked["arguments"])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Server:
    """A process that has imported Snakemake, and runs it in forks of itself."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def run(self, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess:
        """As `subprocess.run` with `capture_output`; both streams come as `stdout`."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        with tempfile.NamedTemporaryFile("r", suffix=".said") as said:
            asked = {"arguments": arguments, "cwd": str(cwd), "said": said.name}
            print(json.dumps(asked), file=self._process.stdin, flush=True)
            code = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(arguments, code, said.read(), "")

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()


SERVER = Server()


@dataclass(frozen=True)
class Project:
    """A copy of the project, and a folder that it runs in."""

    root: Path
    folder: Path

    def snakemake(
        self, *arguments: str, check: bool = True, fresh: bool = False
    ) -> subprocess.CompletedProcess:
        """Run Snakemake on two cores, where asked in a process of its own; its output is text."""
        command = self.command(*arguments)
        alone = {"capture_output": True, "text": True, "cwd": self.root}
        done = subprocess.run(command, **alone) if fresh else SERVER.run(command[3:], self.root)
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def command(self, *arguments: str) -> list[str]:
        """The command line of `snakemake`; without a target after `--`, the frontier and its report.

        The stages beyond the frontier have tests of their own, and `.ci/run` makes them all.
        """
        if "--" not in arguments:
            arguments = (*arguments, "--", "frontier")
        tiny = ["--configfile", str(ROOT / "tests/config/tiny.yaml"), "--directory", str(self.folder)]
        return [sys.executable, "-m", "snakemake", "--cores", "2", *tiny, *arguments]

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs that Snakemake would run, by rule; targets left out."""
        said = self.snakemake("--dry-run", *arguments).stdout
        table = re.search(r"job +count\n-+ +-+\n(.*?)\ntotal", said, re.DOTALL)
        jobs = dict(line.split() for line in table[1].splitlines()) if table else {}
        return {rule: int(count) for rule, count in jobs.items() if rule != "frontier"}

    def copied_run(self, folder: Path) -> Project:
        """The same project with a copy of the finished run, for a test that changes results."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return replace(self, folder=folder)

    @contextmanager
    def edited(self, file: str, old: str, new: str) -> Iterator[None]:
        """The copy with one piece of one file replaced."""
        path = self.root / file
        text = path.read_text()
        assert text.count(old) >= 1, f"{file} has no {old!r}"
        path.write_text(text.replace(old, new, 1))
        try:
            yield
        finally:
            path.write_text(text)

    def kill_during(self, log: str, *arguments: str, delay: float = 0.2) -> None:
        """Start a run and send SIGKILL to all its processes shortly after a job opened its log."""
        path = self.folder / log
        path.unlink(missing_ok=True)
        running = subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 240  # a loaded machine is slow to start Snakemake
            while not path.exists():
                assert running.poll() is None, f"the run ended before {log} appeared"
                assert time.monotonic() < deadline, f"{log} did not appear"
                time.sleep(0.01)
            time.sleep(delay)
        finally:
            with suppress(ProcessLookupError):  # the last job may be quicker than the delay
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def copy_project(root: Path, folder: Path) -> Project:
    """A project in `root` that runs in `folder`."""
    for name in COPIED:
        source, target = ROOT / name, root / name
        if source.is_dir():
            # With the compiled code that lies beside it: compiling it anew would take most of the run.
            shutil.copytree(source, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    for name in REGISTRIES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    folder.mkdir(parents=True, exist_ok=True)
    # tiny.yaml names its texts from the top of the repository.
    (folder / "tests").symlink_to(ROOT / "tests")
    return Project(root, folder)


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Iterator[Project]:
    """A finished tiny run. Tests leave the copy and the results as they found them."""
    base = tmp_path_factory.mktemp("project")
    project = copy_project(base / "copy", base / "run")
    project.snakemake()
    yield project
    SERVER.close()


def pytest_collection_modifyitems(items):
    """The mark that leaves these out: `pytest -m "not workflow"`."""
    for item in items:
        if Path(__file__).parent in Path(item.fspath).parents:
            item.add_marker(pytest.mark.workflow)
