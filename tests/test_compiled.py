"""Loops compile where neither the package nor the user's cache can be written, and anew when their code has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Root may write everywhere, so what may be written is said instead of set.
READ_ONLY = """
import os, tempfile, warnings
allowed, os.access = os.access, lambda path, mode: False
warnings.simplefilter("error" if {strict} else "always")
{before}
import ghostkv
os.access = allowed
{after}
print(os.environ["NUMBA_CACHE_DIR"])
"""
COMPILE = """
import numba
from ghostkv.store.checksums import checksum
assert numba.config.CACHE_DIR == os.environ["NUMBA_CACHE_DIR"]
"""


def imported(tmp_path: Path, before: str = "", after: str = "", strict: bool = False, **more: str):
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    return subprocess.run(
        [sys.executable, "-c", READ_ONLY.format(before=before, after=after, strict=strict)],
        env=environment | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)} | more,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("before", ["", "import numba"], ids=["first", "after numba"])
def test_a_package_that_cannot_be_written_keeps_compiled_loops_in_a_private_folder(tmp_path, before):
    done = imported(tmp_path, before, COMPILE)
    folder = Path(done.stdout.strip())
    assert folder.parent == tmp_path
    assert (folder.stat().st_mode & 0o777, folder.stat().st_uid) == (0o700, os.getuid())
    assert done.stderr.count("Warning") == 1
    assert str(folder) in done.stderr


def test_a_folder_that_others_can_write_is_not_used(tmp_path):
    (taken := tmp_path / f"ghostkv-{os.getuid()}").mkdir()
    taken.chmod(0o777)
    assert Path(imported(tmp_path).stdout.strip()) != taken


def test_a_folder_that_the_user_names_is_used_without_a_word(tmp_path):
    done = imported(tmp_path, strict=True, NUMBA_CACHE_DIR=str(tmp_path / "mine"))
    assert done.stdout.strip() == str(tmp_path / "mine")


LOOP = """
from ghostkv.files.compiled import njit
from ghostkv.one import SIZE, {kind}, twice

@njit(cache=True)
def loop(pair):
    return twice(SIZE) + pair.first

def answer():
    return loop({kind}(0))
"""
CALLED = """
from typing import NamedTuple
from ghostkv.files.compiled import njit
SIZE = {size}

class {kind}(NamedTuple):
    first: int

@njit(cache=True)
def twice(number):
    return {factor} * number
"""


def test_a_compiled_loop_knows_when_what_it_calls_or_reads_of_another_file_has_changed(tmp_path):
    package = tmp_path / "ghostkv"
    (package / "files").mkdir(parents=True)
    for name in ("__init__.py", "files/__init__.py", "files/compiled.py", "files/provenance.py"):
        shutil.copy2(ROOT / "ghostkv" / name, package / name)

    def answer(size: int, factor: int, kind: str = "Pair") -> tuple[int, int]:
        (package / "one.py").write_text(CALLED.format(size=size, factor=factor, kind=kind))
        (package / "two.py").write_text(LOOP.format(kind=kind))
        said = "from ghostkv.two import answer, loop; print(answer(), sum(loop.stats.cache_hits.values()))"
        # Without byte code, by which Python itself takes an edit of the same second and length for no edit.
        done = subprocess.run(
            [sys.executable, "-B", "-c", said], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return tuple(map(int, done.stdout.split()))

    assert answer(5, 2) == (10, 0)
    assert answer(5, 2) == (10, 1)
    assert answer(7, 2) == (14, 0)
    assert answer(7, 3) == (21, 0)
    assert answer(7, 3, "Renamed") == (21, 0)
