"""What the jobs of stage `plan` depend on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghostkv.files.jobs import Job
from ghostkv.sources.model_size import ModelSize
from ghostkv.stages.plan.schemas import COMPARED_SCHEMAS, PLAN_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class PlanRun(Job):
    """What a run will take, and whether this machine has it.

    Attributes
    ----------
    max_context : int or None
        Longest context that the model takes.
    folder : str
        Where results will lie.
    downloads : dict
        What is fetched for texts -> its MB.
    asked : int
        When it was asked for, in nanoseconds: what is free on this machine is looked at anew each time.
    """

    call = "ghostkv.stages.plan.plan.plan_run"
    tables = tuple(PLAN_SCHEMAS)

    config: dict[str, Any]
    layers: tuple[int, ...]
    max_context: int | None
    folder: str
    size: ModelSize
    downloads: dict[str, float]
    asked: int

    @classmethod
    def of(cls, run: Run) -> PlanRun:
        return cls.taken(
            run,
            config=run.config.plain(),
            max_context=run.model.max_context,
            downloads={source.package or source.id: source.download_mb for source in run.sources.values()},
            asked=time.time_ns(),
        )


@dataclass(frozen=True)
class ComparePlan(Job):
    """A plan beside what the run took.

    Attributes
    ----------
    config : dict
        What decides its cost.
    size : ModelSize or None
        That of imported tensors; a model's is read from where it was fetched to, as it may not be known before.
    """

    call = "ghostkv.stages.plan.compare.compare_plan"
    tables = tuple(COMPARED_SCHEMAS)

    config: dict[str, Any]
    layers: tuple[int, ...]
    max_context: int | None
    folder: str
    size: ModelSize | None

    @classmethod
    def of(cls, run: Run) -> ComparePlan:
        config = run.config.plain(without=("plan", "report"))
        config["capture"] = run.config.capture.plain(without=("threads",))
        size = run.size if run.imports else None
        return cls.taken(run, config=config, max_context=run.model.max_context, size=size)
