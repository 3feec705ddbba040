"""Jobs as a person knows them, and why one failed."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

# A line of `ghostkv.files.progress`, and how much of a log is read and shown.
_PROGRESS = re.compile(r"(\d+)%\|.*\[.*\]$")
_TAIL, _LINES = 64 << 10, 40
_NO_MEMORY = re.compile(r"MemoryError|bad_alloc|[Aa]llocate memory")
# MB below which a disk is called full.
_ROOM = 20


@dataclass
class Shown:
    """A job: its rule, the wildcards that tell it from the others of its rule, and where it writes."""

    rule: str
    wildcards: dict[str, str]
    logs: list[str]
    mem_mb: int | None
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        # The log of an earlier run says nothing about this one.
        self._earlier = _written(self.logs)

    @property
    def which(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.wildcards.items())

    def __str__(self) -> str:
        return f"{self.rule} {self.which}".rstrip()

    def done(self) -> float | None:
        """The share of its work that it has done, as far as its log says."""
        if _written(self.logs) == self._earlier:
            return None
        said = [_PROGRESS.search(line) for line in _tail(self.logs[0], 512)[-1:]]
        return int(said[0][1]) / 100 if said and said[0] else None


def named(rule: str, logs: list[str], said: list[str]) -> bool:
    """Whether what a submission to a cluster said, in its own logs, names this job of it as one that failed."""
    error = re.compile(rf"^ *Error in rule {rule}:\n(?: .*\n)*? +log: (.+?) \(check log", re.MULTILINE)
    return any(found in logs for log in said for found in error.findall("\n".join(_tail(log, _TAIL))))


def explain(job: Shown, end: str) -> str:
    """Why a job failed: what its log says, or what ended it before it could say anything.

    Parameters
    ----------
    end : str
        Snakemake's words on how its script ended.
    """
    read = {log: [line for line in _tail(log, _TAIL) if not _PROGRESS.search(line)] for log in job.logs}
    log, lines = next(((log, lines) for log, lines in read.items() if lines), (None, []))
    parts = [f"{job} failed" + (f"; {log} says:" if lines else ":")]
    parts += ["..."] * (len(lines) > _LINES) + lines[-_LINES:]
    killed = re.search(r"died with <Signals\.(\w+)|exit status (137)", end)
    if killed:
        parts.append(
            f"It was ended from outside ({killed[1] or 'SIGKILL'}). The same command resumes the run."
        )
    elif not lines:
        parts.append(f"It left no word in its log.\n{end}".rstrip())
        parts += _full(job.logs)
    if (killed and killed[1] in (None, "SIGKILL")) or _NO_MEMORY.search("\n".join(lines[-3:])):
        parts += _memory(job)
    return "\n".join(parts)


def _memory(job: Shown) -> list[str]:
    """What to do about memory that ran out, which the kernel may have answered with SIGKILL."""
    if not job.mem_mb:
        return []
    more = f"--set-resources {job.rule}:mem_mb={2 * job.mem_mb}"
    return [
        f"Memory may have run out. {job.rule} states mem_mb={job.mem_mb}; if it states more, fewer jobs run beside it.",
        f'Write: {more}    (make frontier ARGS="{more}")',
    ]


def _full(logs: list[str]) -> list[str]:
    """A sentence where the disk that takes the logs is as good as full."""
    folder = Path(logs[0] if logs else ".").parent
    left = shutil.disk_usage(folder).free >> 20 if folder.exists() else _ROOM
    if left >= _ROOM:
        return []
    return [
        f"The disk of {folder.resolve()} has {left} MB left. Free some; the same command resumes the run."
    ]


def _written(logs: list[str]) -> int | None:
    """When the first of the logs was last written."""
    try:
        return os.stat(logs[0]).st_mtime_ns if logs else None
    except OSError:
        return None


def interrupted(end: str) -> bool:
    return "SIGINT" in end or "exit status 130" in end


def _tail(path: str, size: int) -> list[str]:
    """The last lines of a file; none, if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - size, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()]
