"""The real Snakefile on a tiny model, run once for all tests here, from a copy that they may edit."""

from __future__ import annotations

import json
import os
import re
import select
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
STAGES = ("frontier", "certificates", "calibrated", "peers", "historical", "benchmark", "speed")
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
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Server:
    """A process that has imported Snakemake, and runs it in forks of itself."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def start(self, arguments: list[str], cwd: Path, said: str = os.devnull) -> int:
        """Start Snakemake and return its process, which leads a group of its own; `ended` must follow."""
        if self._process is None:
            # Without buffers, so that `select` sees every line that is there.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        asked = {"arguments": arguments, "cwd": str(cwd), "said": said}
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        return int(self._process.stdout.readline())

    def running(self) -> bool:
        """Whether what was started has not ended yet."""
        return not select.select([self._process.stdout], [], [], 0)[0]

    def ended(self) -> int:
        """The exit status of what was started, once it has ended."""
        return int(self._process.stdout.readline())

    def run(self, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess:
        """As `subprocess.run` with `capture_output`; both streams come as `stdout`."""
        with tempfile.NamedTemporaryFile("r", suffix=".said") as said:
            self.start(arguments, cwd, said.name)
            code = self.ended()
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
        """The command line of `snakemake`; without a target after `--`, the stages that a run of captures alone can do.

        The other stages have tests of their own, and `.ci/run` makes them all.
        """
        if "--" not in arguments:
            arguments = (*arguments, "--", *STAGES)
        tiny = ["--configfile", str(ROOT / "tests/config/tiny.yaml"), "--directory", str(self.folder)]
        return [sys.executable, "-m", "snakemake", "--cores", "2", *tiny, *arguments]

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs that Snakemake would run, by rule; targets left out."""
        said = self.snakemake("--dry-run", *arguments).stdout
        table = re.search(r"job +count\n-+ +-+\n(.*?)\ntotal", said, re.DOTALL)
        jobs = dict(line.split() for line in table[1].splitlines()) if table else {}
        left_out = {"frontier"} if "--" in arguments else set(STAGES)
        return {rule: int(count) for rule, count in jobs.items() if rule not in left_out}

    def copied_run(self) -> Project:
        """The same project with a copy of the finished run, for a test that changes results.

        It lies beside the run: from elsewhere the project's registries have another path, which reruns all that reads texts.
        """
        folder = Path(tempfile.mkdtemp(prefix="run_", dir=self.folder.parent))
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        return replace(self, folder=folder)

    @contextmanager
    def edited(self, file: str, old: str, new: str) -> Iterator[None]:
        """The copy with one piece of one file replaced."""
        path = self.root / file
        text, times = path.read_text(), path.stat()
        assert text.count(old) >= 1, f"{file} has no {old!r}"
        path.write_text(text.replace(old, new, 1))
        try:
            yield
        finally:
            path.write_text(text)
            restore_times(path, times)

    def kill_during(self, log: str, *arguments: str, delay: float = 0.2) -> None:
        """Start a run and send SIGKILL to all its processes shortly after a job opened its log."""
        path = self.folder / log
        path.unlink(missing_ok=True)
        leader = SERVER.start(self.command(*arguments)[3:], self.root)
        try:
            deadline = time.monotonic() + 240  # a loaded machine is slow to start Snakemake
            while not path.exists():
                assert SERVER.running(), f"the run ended before {log} appeared"
                assert time.monotonic() < deadline, f"{log} did not appear"
                time.sleep(0.01)
            time.sleep(delay)
        finally:
            with suppress(ProcessLookupError):  # the last job may be quicker than the delay
                os.killpg(leader, signal.SIGKILL)
            SERVER.ended()


def restore_times(path: Path, times: os.stat_result) -> None:
    """Give a file the times that it had: what was compiled of it, Numba's kernels too, is then still its own."""
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def share_compiled(source: Path, target: Path) -> None:
    """Let a copy keep its compiled code where the original does, so that each of Numba's kernels is compiled once.

    A kernel belongs to a file's name, size and time, which a copy has too; one that was edited compiles for itself.
    """
    for folder in {path.parent for path in target.rglob("*.py")}:
        compiled = source / folder.relative_to(target) / "__pycache__"
        compiled.mkdir(exist_ok=True)
        (folder / "__pycache__").symlink_to(compiled)


def copy_project(root: Path, folder: Path) -> Project:
    """A project in `root` that runs in `folder`."""
    for name in COPIED:
        source, target = ROOT / name, root / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            share_compiled(source, target)
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
    """A finished tiny run. Tests leave the copy and the results as they found them.

    `.ci/run` names the folder where both are to lie, and goes on from there to the stages beyond the frontier.
    """
    kept = os.environ.get("GHOSTKV_TINY_RUN")
    base = Path(kept) if kept else tmp_path_factory.mktemp("project")
    project = copy_project(base / "copy", base / "run")
    project.snakemake()
    yield project
    SERVER.close()


def pytest_collection_modifyitems(items):
    """The mark that leaves these out: `pytest -m "not workflow"`."""
    for item in items:
        if Path(__file__).parent in Path(item.fspath).parents:
            item.add_marker(pytest.mark.workflow)
