"""The plan of a finished run beside what its jobs took and what they left on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.config.experiment import load_config
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.sources.model_size import fetched_size
from ghostkv.stages.plan.costs import Speeds
from ghostkv.stages.plan.disk import disk_gb
from ghostkv.stages.plan.finished import FinishedRun, sizes_on_disk
from ghostkv.stages.plan.machine import measure_machine, speeds_of
from ghostkv.stages.plan.schemas import COMPARED_SCHEMA
from ghostkv.stages.plan.workload import Workload

if TYPE_CHECKING:
    from ghostkv.stages.plan.jobs import ComparePlan

# Its job is still to come, or its log is of an earlier one.
_UNFINISHED = "report"


def compare_plan(job: ComparePlan, inputs: Mapping[str, Any], outputs: Mapping[str, str]) -> None:
    """Write the plan's CPU seconds and memory beside those of the jobs that left a log, and its disk beside the files."""
    config = load_config(job.config)
    size = job.size or fetched_size(Path(inputs["model_manifest"]).parent)
    run = FinishedRun(Workload(config, job.layers, size, job.max_context), Path(job.folder))
    rows = compared_rows(run, speeds_of(measure_machine()))
    write_rows(rows, outputs["compared"], COMPARED_SCHEMA, metadata(job.code, model=config.model.name))


def compared_rows(run: FinishedRun, speeds: Speeds) -> list[dict[str, Any]]:
    """Rows of `COMPARED_SCHEMA`; disk only of stages whose jobs all left a log."""
    ended, left = run.jobs(), sizes_on_disk(run)
    planned = run.planned()
    rows = []
    for stage in dict.fromkeys(job.stage for job, _ in ended if job.stage != _UNFINISHED):
        costs = [(job.cost(run.work, speeds), usage) for job, usage in ended if job.stage == stage]
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
        if stage in left and len(costs) == sum(job.stage == stage for job in planned):
            pairs["disk_gb"] = (disk_gb(run.work, stage), left[stage])
        rows += [
            {"stage": stage, "quantity": quantity, "jobs": len(costs), "planned": guess, "measured": found}
            | {"ratio": guess / found}
            for quantity, (guess, found) in pairs.items()
        ]
    return rows
