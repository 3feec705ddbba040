"""What a job took of the machine, in a table beside its log.

Snakemake's own benchmark files look at a job every half second at first and every 30 seconds later, so that what a long job
did after the last look is missing; here the kernel says it at the end.
"""

from __future__ import annotations

import csv
import os
import resource
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from ghostkv.files.io import write_text

# Cores that a run may use, for its jobs; see workflow/rules/common.smk.
CORES = "GHOSTKV_CORES"


@dataclass(frozen=True)
class Usage:
    """What one job took."""

    begun: float  # seconds since 1970
    s: float  # seconds of wall time, from the start of its script
    cpu_time: float  # CPU seconds of the process and of those that it waited for
    max_rss: float  # MB of memory at most, of the largest of these processes
    cores: int  # of the run; 0 on a cluster

    @classmethod
    def so_far(cls, begun: float) -> Usage:
        """What this process has taken up to now, since `begun`."""
        kinds = [resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(
            begun=begun,
            s=time.time() - begun,
            cpu_time=sum(kind.ru_utime + kind.ru_stime for kind in kinds),
            max_rss=max(_peak(), kinds[1].ru_maxrss) / 1024,
            cores=int(os.environ.get(CORES, os.cpu_count() or 1)),
        )

    def write(self, path: Path) -> None:
        """Write it as a table of one row."""
        shown = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in astuple(self)]
        write_text("\t".join(asdict(self)) + "\n" + "\t".join(shown) + "\n", path)


def _peak() -> int:
    """kB of memory that this process held at most; Linux counts those of its parent in, unless asked like this."""
    with suppress(OSError, StopIteration), open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM:")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def usage_by_log(folder: Path) -> dict[tuple[str, str], Usage]:
    """What jobs took by stage and name of the log; files that are no such table are left out."""
    found: dict[tuple[str, str], Usage] = {}
    for path in sorted(folder.rglob("*.tsv")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            (row,) = csv.DictReader(path.read_text().splitlines(), delimiter="\t")
            values = {field.name: int if field.type == "int" else float for field in fields(Usage)}
            known = Usage(**{name: kind(row[name]) for name, kind in values.items()})
            found[path.parent.name, path.stem] = known
    return found


def read_usage(folder: Path) -> dict[str, list[Usage]]:
    """What jobs took by stage, from logs with a folder for each."""
    found: dict[str, list[Usage]] = {}
    for (stage, _), usage in usage_by_log(folder).items():
        found.setdefault(stage, []).append(usage)
    return found


def idle_share(jobs: Iterable[Usage]) -> float:
    """Share of the cores' time that nothing used while jobs were at work.

    Gaps in which no job ran are left out: a run may have been resumed the next day.
    """
    jobs = sorted(jobs, key=lambda job: job.begun)
    offered, until = 0.0, 0.0
    for job in jobs:
        ended = job.begun + job.s
        offered += max(0.0, ended - max(job.begun, until)) * job.cores
        until = max(until, ended)
    return 1.0 - sum(job.cpu_time for job in jobs) / offered if offered else 0.0
