"""The plan of a finished run beside what its jobs took and what they left on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.stages.plan.costs import Speeds, cost_of, disk_gb
from ghostkv.stages.plan.finished import complete_stages, ended_jobs, sizes_on_disk
from ghostkv.stages.plan.machine import measure_machine, speeds_of
from ghostkv.stages.plan.schemas import COMPARED_SCHEMA

if TYPE_CHECKING:
    from ghostkv.stages.plan.jobs import ComparePlan

# Its job is still to come, or its log is of an earlier one.
_UNFINISHED = "report"


def compare_plan(job: ComparePlan, inputs: Mapping[str, Any], outputs: Mapping[str, str]) -> None:
    """Write the plan's CPU seconds and memory beside those of the jobs that left a log, and its disk beside the files."""
    rows = compared_rows(job, speeds_of(measure_machine()))
    write_rows(rows, outputs["compared"], COMPARED_SCHEMA, metadata(job.code, model=job.model))


def compared_rows(job: ComparePlan, speeds: Speeds) -> list[dict[str, Any]]:
    """Rows of `COMPARED_SCHEMA`; disk only of stages whose jobs all left a log."""
    ended = ended_jobs(job.jobs, Path(job.folder))
    left = sizes_on_disk(complete_stages(job.jobs, Path(job.folder)), Path(job.folder), job.model)
    rows = []
    for stage in dict.fromkeys(one.stage for one, _ in ended if one.stage != _UNFINISHED):
        costs = [(cost_of(one.rates, one.terms, speeds), usage) for one, usage in ended if one.stage == stage]
        pairs = {
            "cpu_seconds": (
                sum(cost.cpu_seconds for cost, _ in costs),
                sum(usage.cpu_time for _, usage in costs),
            ),
            "memory_gb": (
                max(cost.memory_gb for cost, _ in costs),
                max(usage.max_rss for _, usage in costs) / 1000,
            ),
        }
        if stage in left:
            pairs["disk_gb"] = (disk_gb(stage, job.disk[stage]), left[stage])
        rows += [
            {"stage": stage, "quantity": quantity, "jobs": len(costs), "planned": guess, "measured": found}
            | {"ratio": guess / found}
            for quantity, (guess, found) in pairs.items()
        ]
    return rows
