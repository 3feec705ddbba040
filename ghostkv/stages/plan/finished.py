"""What a finished run took: its jobs by their logs, its stages by their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ghostkv.files.usage import Usage, usage_by_log
from ghostkv.stages.plan.terms import PlannedJobs


def ended_jobs(jobs: Iterable[PlannedJobs], results: Path) -> list[tuple[PlannedJobs, Usage]]:
    """Each process that left a log, with what it took."""
    took = usage_by_log(results / "logs")
    return [(job, took[job.stage, log]) for job in jobs for log in job.logs if (job.stage, log) in took]


def complete_stages(jobs: Sequence[PlannedJobs], results: Path) -> list[str]:
    """Stages of which every process left a log: what they leave on disk is all there."""
    took = usage_by_log(results / "logs")
    lacking = {job.stage for job in jobs for log in job.logs if (job.stage, log) not in took}
    return [stage for stage in dict.fromkeys(job.stage for job in jobs) if stage not in lacking]


def sizes_on_disk(stages: Iterable[str], results: Path, model: str) -> dict[str, float]:
    """GB of each stage's files, as far as there are any; `model` is the model's name, beside the results."""
    folders = {stage: results / stage for stage in stages}
    folders["model"] = results.parent / "resources/models" / model
    return {stage: size for stage, folder in folders.items() if (size := _folder_gb(folder))}


def _folder_gb(folder: Path) -> float:
    """GB of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
