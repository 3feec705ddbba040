"""Scratch folders are removed when left, and those of the dead by whoever comes next."""

import os
import subprocess
import sys
import time

import pytest

from ghostkv.files.scratch import scratch_folder

HOLD = """
import sys, time
from ghostkv.files.scratch import scratch_folder
with scratch_folder(sys.argv[1], "held") as place:
    (place / "wheel").write_text("half")
    print(place, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds a scratch folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_folder_is_there_while_it_is_needed(tmp_path):
    with (
        scratch_folder(tmp_path / "new", "held") as place,
        scratch_folder(tmp_path / "new", "held") as other,
    ):
        assert place.is_dir()
        assert place != other
        (place / "file").write_text("x")
    assert names(tmp_path / "new") == set()


def test_a_killed_owners_folder_goes_and_a_living_ones_stays(tmp_path, holder):
    held = names(tmp_path)
    assert len(held) == 1
    with scratch_folder(tmp_path, "held"):
        assert held < names(tmp_path)
    holder.kill()
    holder.wait()
    with scratch_folder(tmp_path, "other"):
        assert held < names(tmp_path)
    with scratch_folder(tmp_path, "held"):
        assert not held & names(tmp_path)
    assert names(tmp_path) == set()


def test_what_is_of_nobody_known_goes_after_a_day_without_a_change(tmp_path):
    for name in (".held-abc", ".held-1_2_another-boot_3-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    with scratch_folder(tmp_path, "held"):
        assert len(names(tmp_path)) == 3
    before = time.time() - 25 * 3600
    os.utime(tmp_path / ".held-abc/file", (before, before))
    os.utime(tmp_path / ".held-abc", (before, before))
    with scratch_folder(tmp_path, "held"):
        assert ".held-abc" not in names(tmp_path)
    assert names(tmp_path) == {".held-1_2_another-boot_3-x"}
