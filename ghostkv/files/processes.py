"""Whether a process that left its name somewhere still lives. The answer is "unknown" wherever it cannot be proved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_PROC = Path("/proc")


def identity(pid: int | None = None) -> dict[str, str | int] | None:
    """What tells a process from every other one: its machine since the boot, its namespace, its number, its start.

    The start is counted in ticks since the boot, which a change of the clock leaves alone, and a process that gets the
    number of a dead one has another. None where the system does not say all of it (it takes Linux's /proc).
    """
    try:
        return {
            "boot": (_PROC / "sys/kernel/random/boot_id").read_text().strip(),
            # Containers of one machine each have numbers of their own.
            "namespace": os.readlink(_PROC / "self/ns/pid"),
            "pid": pid or os.getpid(),
            "start": _stat(pid or os.getpid())[1],
        }
    except OSError:
        return None


def lives(process: Mapping[str, str | int]) -> bool | None:
    """Whether a process of which `identity` was kept still lives; None if it is not of this machine, or not to be known."""
    here = identity()
    if here is None or any(process.get(key) != here[key] for key in ("boot", "namespace")):
        return None
    pid, start = process.get("pid"), process.get("start")
    if not isinstance(pid, int) or not isinstance(start, int):
        return None
    try:
        os.kill(pid, 0)
        state, started = _stat(pid)
    except ProcessLookupError:
        return False
    except OSError:
        return None  # of another user, who may hide it
    return started == start and state != "Z"


def _stat(pid: int) -> tuple[str, int]:
    """State and start of a process. Its name, in brackets before both, may hold anything."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    return fields[0], int(fields[19])
