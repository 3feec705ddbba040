"""A process is taken for dead where that is proved, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ghostkv.files.processes import identity, lives

pytestmark = pytest.mark.skipif(identity() is None, reason="this system does not say who a process is")


def test_a_process_lives_until_it_has_ended():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = identity(child.pid)
    assert lives(name) is True
    child.communicate(b"\n")
    assert lives(name) is False


def test_a_dead_process_that_nobody_has_fetched_is_dead():
    child = os.fork()
    if not child:
        os._exit(0)
    name = identity(child)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert lives(name) is False
    os.waitpid(child, 0)


def test_a_number_given_anew_is_another_process():
    assert lives(identity() | {"start": identity()["start"] - 1}) is False


@pytest.mark.parametrize(
    "changed", [{"boot": "another"}, {"namespace": "pid:[1]"}, {"pid": "one"}, {"start": None}]
)
def test_nothing_is_known_of_a_process_elsewhere(changed):
    assert lives(identity() | changed) is None


def test_nothing_is_known_of_a_process_without_a_name():
    assert lives({}) is None
