"""A job's output goes to its log: streams, native libraries, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BODY = """
import os, sys
from types import SimpleNamespace
from ghostkv.errors import ConfigError
from ghostkv.logs import job
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
