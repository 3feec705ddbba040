"""What the jobs of stage `plan` depend on."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ghostkv.files.jobs import Job
from ghostkv.sources.model_size import ModelSize, size_of
from ghostkv.stages.plan.disk import disk_terms
from ghostkv.stages.plan.planning import planned_jobs, workload
from ghostkv.stages.plan.schemas import COMPARED_SCHEMAS, PLAN_SCHEMAS
from ghostkv.stages.plan.terms import PlannedJobs
from ghostkv.stages.plan.workload import Workload

if TYPE_CHECKING:
    from ghostkv.stages.run import Run

_ASKED = time.time_ns()


@dataclass(frozen=True)
class Planned(Job):
    """What a run has to do.

    Attributes
    ----------
    jobs : tuple of PlannedJobs
        All of its processes.
    disk : dict
        Stage -> what its disk grows with.
    model : str
        Its name.
    folder : str
        Where results lie, or will.
    """

    jobs: tuple[PlannedJobs, ...]
    disk: dict[str, dict[str, float]]
    model: str
    folder: str


def _planned(run: Run, work: Workload) -> dict:
    jobs = tuple(planned_jobs(work))
    disk = {stage: disk_terms(work, stage) for stage in dict.fromkeys(job.stage for job in jobs)}
    return {"jobs": jobs, "disk": disk, "model": "imported tensors" if run.imports else run.config.model.name}


@dataclass(frozen=True)
class PlanRun(Planned):
    """What a run will take, and whether this machine has it.

    Attributes
    ----------
    tokens : int
        Of each text.
    longest : int
        Of the longest.
    held_gb : float
        Weights and a cache of the longest text, in GB; 0 where tensors are imported.
    downloads : dict
        What is fetched for texts -> its MB.
    memory_gb, disk_gb : float or None
        Of the machine that is planned for; None for those of this one.
    asked : int
        When it was asked for, in nanoseconds: what is free on this machine is looked at anew each time.
    """

    call = "ghostkv.stages.plan.plan.plan_run"
    tables = tuple(PLAN_SCHEMAS)
    sections = ("plan",)

    size: ModelSize
    tokens: int
    longest: int
    held_gb: float
    downloads: dict[str, float]
    memory_gb: float | None
    disk_gb: float | None
    asked: int

    @classmethod
    def of(cls, run: Run) -> PlanRun:
        work = workload(run)
        return cls.taken(
            run,
            **_planned(run, work),
            tokens=work.tokens,
            held_gb=0.0 if run.imports else work.weights + work.cache(run.longest),
            downloads={source.package or source.id: source.download_mb for source in run.sources.values()},
            asked=_ASKED,
        )


@dataclass(frozen=True)
class ComparePlan(Planned):
    """The plan as it was before anything was fetched, to be held against what the run took."""

    call = "ghostkv.stages.plan.compare.compare_plan"
    tables = tuple(COMPARED_SCHEMAS)

    @classmethod
    def of(cls, run: Run) -> ComparePlan:
        size = run.size if run.imports else size_of(run.model)
        return cls.taken(run, **_planned(run, replace(workload(run), size=size)))
