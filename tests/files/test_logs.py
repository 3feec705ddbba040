"""A job's output goes to its log: streams, native libraries, errors."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from ghostkv.files.logs import progress

ROOT = Path(__file__).parents[2]
BODY = """
import os, sys
from types import SimpleNamespace
from ghostkv.files.errors import ConfigError
from ghostkv.files.logs import job
snakemake = SimpleNamespace(log=[sys.argv[1]], output=[sys.argv[2]], threads=3)
with job(snakemake):
    {body}
"""


def run(tmp_path: Path, body: str) -> tuple[subprocess.CompletedProcess, str]:
    log = tmp_path / "logs" / "job.log"
    done = subprocess.run(
        [sys.executable, "-c", BODY.format(body=body), str(log), str(tmp_path / "out.parquet")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return done, log.read_text()


def test_all_streams_go_to_the_log(tmp_path):
    body = "print('out'); print('err', file=sys.stderr); os.system('echo native')"
    done, log = run(tmp_path, body)
    assert done.returncode == 0
    assert log.split() == ["out", "err", "native"]


def test_logging_goes_to_the_log(tmp_path):
    _, log = run(tmp_path, "import logging; logging.getLogger('ghostkv.x').info('layer 3')")
    assert log.endswith("layer 3\n")


def test_an_error_for_the_user_is_its_message_alone(tmp_path):
    done, log = run(tmp_path, "raise ConfigError('write: tokens: 4096')")
    assert done.returncode == 1
    assert log == "write: tokens: 4096\n"


def test_any_other_error_leaves_its_traceback(tmp_path):
    done, log = run(tmp_path, "1 / 0")
    assert done.returncode == 1
    assert log.startswith("Traceback")
    assert "ZeroDivisionError" in log


def test_threads_are_set_before_anything_is_imported(tmp_path):
    body = "print(os.environ['OMP_NUM_THREADS'], os.environ['POLARS_MAX_THREADS'], 'numpy' in sys.modules)"
    assert run(tmp_path, body)[1].split() == ["3", "3", "False"]


@pytest.mark.parametrize("name", [".out.parquet.123.part", ".out.parquet.9.part"])
def test_leftovers_of_a_killed_run_are_removed(tmp_path, name):
    (tmp_path / name).write_text("half")
    (tmp_path / ".other.parquet.123.part").write_text("another job's")
    run(tmp_path, "pass")
    assert not (tmp_path / name).exists()
    assert (tmp_path / ".other.parquet.123.part").exists()


def run_on_terminal(tmp_path: Path, body: str, size: tuple[int, int] = (24, 80)) -> tuple[str, str]:
    """What the terminal shows, and the log."""
    log, (screen, keyboard) = tmp_path / "logs" / "job.log", os.openpty()
    os.set_blocking(screen, False)
    termios.tcsetwinsize(keyboard, size)
    command = [sys.executable, "-c", BODY.format(body=body), str(log), str(tmp_path / "out.parquet")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, stderr=keyboard, env=environment).returncode == 0
    try:
        return os.read(screen, 1 << 16).decode(), log.read_text()
    except BlockingIOError:
        return "", log.read_text()
    finally:
        os.close(screen)
        os.close(keyboard)


COUNT = (
    "from ghostkv.files.logs import progress; print(sum(progress(iter(range(5)), total=5, desc='layer 3')))"
)


@pytest.mark.parametrize("size", [(24, 80), (0, 0), (0, 80)], ids=["known", "unknown", "width only"])
def test_progress_is_drawn_on_the_terminal_and_all_else_goes_to_the_log(tmp_path, size):
    shown, log = run_on_terminal(tmp_path, COUNT, size)
    assert "layer 3" in shown
    assert "/5" in shown
    # The bar wipes its line when it is done: what other jobs show there stays readable.
    assert shown.endswith("\r")
    assert "\n" not in shown
    assert log == "10\n"


def test_progress_without_a_terminal_is_lines_of_the_log(tmp_path):
    done, log = run(tmp_path, COUNT)
    assert (done.stdout, done.stderr) == ("", "")
    begun, ended, total = log.splitlines()
    assert begun.startswith("layer 3:   0%")
    assert ended.startswith("layer 3: 100%")
    assert "5/5" in ended
    assert total == "10"


def test_progress_outside_a_job_is_lines_of_standard_error(capsys):
    with progress(total=4, desc="steps", unit="step") as bar:
        bar.update(4)
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split("%")[0] for line in said.err.splitlines()] == ["steps:   0", "steps: 100"]


def test_after_a_job_the_terminal_is_let_go(tmp_path):
    body = "pass\nfrom ghostkv.files.logs import progress; list(progress([1], desc='after'))"
    shown, log = run_on_terminal(tmp_path, body)
    assert shown == ""
    assert log.startswith("after: ")
