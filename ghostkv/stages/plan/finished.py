"""What a finished run took: its jobs by their logs, its stages by their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ghostkv.files.usage import Usage, usage_by_log
from ghostkv.stages.plan.costs import PlannedJob, planned_jobs
from ghostkv.stages.plan.workload import Workload


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: what it had to do, what its jobs took, and where its results lie."""

    work: Workload
    results: Path

    def planned(self) -> list[PlannedJob]:
        """All jobs of a run of its config."""
        return planned_jobs(self.work)

    def jobs(self) -> list[tuple[PlannedJob, Usage]]:
        """Those that left a log, with what they took."""
        took = usage_by_log(self.results / "logs")
        return [(job, took[job.stage, job.log]) for job in self.planned() if (job.stage, job.log) in took]


def sizes_on_disk(run: FinishedRun) -> dict[str, float]:
    """GB of each stage's files."""
    folders = {folder.name: folder for folder in run.results.iterdir() if folder.is_dir()}
    model = run.results.parent / "resources/models" / run.work.config.model.name
    folders |= {"model": model} if model.is_dir() else {}
    return {
        stage: size
        for stage, folder in folders.items()
        if stage in type(run.work.config).model_fields and (size := folder_gb(folder))
    }


def folder_gb(folder: Path) -> float:
    """GB of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
