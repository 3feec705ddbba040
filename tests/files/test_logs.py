"""A job's output goes to its log: streams, native libraries, errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ghostkv.files.processes import identity

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


def run(
    tmp_path: Path, body: str, env: dict | None = None, stderr: int = subprocess.PIPE
) -> tuple[subprocess.CompletedProcess, str]:
    log = tmp_path / "logs" / "job.log"
    done = subprocess.run(
        [sys.executable, "-c", BODY.format(body=body), str(log), str(tmp_path / "out.parquet")],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
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


COUNT = "from ghostkv.files.progress import progress; print(sum(progress(iter(range(5)), total=5, desc='layer 3')))"


def test_progress_of_a_job_is_lines_of_the_log_also_on_a_terminal(tmp_path):
    screen, keyboard = os.openpty()
    try:
        _, log = run(tmp_path, COUNT, stderr=keyboard)
        os.set_blocking(screen, False)
        with pytest.raises(BlockingIOError):
            os.read(screen, 1)
    finally:
        os.close(screen)
        os.close(keyboard)
    begun, ended, total = log.splitlines()
    assert begun.startswith("layer 3:   0%")
    assert ended.startswith("layer 3: 100%")
    assert "5/5" in ended
    assert total == "10"


def test_an_interrupted_job_says_so_and_no_more(tmp_path):
    done, log = run(tmp_path, "raise KeyboardInterrupt")
    assert done.returncode == 130
    assert "Traceback" not in log


def test_a_full_disk_is_named_where_the_log_takes_no_word(tmp_path):
    full = "os.dup2(os.open('/dev/full', os.O_WRONLY), sys.stdout.fileno())"
    failed = "raise OSError(errno.ENOSPC, 'No space left on device', 'kv.parquet')"
    done, log = run(tmp_path, f"import errno; {full}; {failed}")
    assert done.returncode == 1
    assert log == ""
    assert "kv.parquet" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_ends_with_the_run_that_it_belongs_to(tmp_path):
    owner = subprocess.Popen(["sleep", "60"])
    named = {"GHOSTKV_RUN": json.dumps(identity(owner.pid))}
    body = "import time; print('begun', flush=True); time.sleep(60); print('done')"
    command = [sys.executable, "-c", BODY.format(body=body), str(tmp_path / "log"), str(tmp_path / "out")]
    job = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)} | named)
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text():
        assert job.poll() is None
        time.sleep(0.05)
    owner.kill()
    owner.wait()
    assert job.wait(timeout=30) == -signal.SIGKILL


def test_a_job_of_a_run_on_another_machine_goes_on(tmp_path):
    elsewhere = {"GHOSTKV_RUN": json.dumps(identity() | {"boot": "another", "pid": 1 << 30})}
    done, log = run(tmp_path, "import time; time.sleep(1.5); print('done')", env=elsewhere)
    assert (done.returncode, log) == (0, "done\n")
