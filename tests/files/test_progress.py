"""Progress outside a job: a bar on a terminal, lines elsewhere. `test_logs.py` has what it is in a job."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from ghostkv.files.progress import progress

ROOT = Path(__file__).parents[2]
COUNT = "from ghostkv.files.progress import progress; list(progress(iter(range(5)), total=5, desc='layer 3'))"


@pytest.mark.parametrize("size", [(24, 80), (0, 0), (0, 80)], ids=["known", "unknown", "width only"])
def test_progress_outside_a_job_is_a_bar_on_the_terminal(size):
    screen, keyboard = os.openpty()
    termios.tcsetwinsize(keyboard, size)
    command = [sys.executable, "-c", COUNT]
    subprocess.run(command, stderr=keyboard, stdout=subprocess.DEVNULL, cwd=ROOT, check=True)
    os.set_blocking(screen, False)
    shown = os.read(screen, 1 << 16).decode()
    os.close(screen)
    os.close(keyboard)
    assert "layer 3" in shown
    assert "/5" in shown
    # The bar wipes its line when it is done.
    assert shown.endswith("\r")
    assert "\n" not in shown


def test_progress_outside_a_job_is_lines_of_standard_error(capsys):
    with progress(total=4, desc="steps", unit="step") as bar:
        bar.update(4)
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split("%")[0] for line in said.err.splitlines()] == ["steps:   0", "steps: 100"]
