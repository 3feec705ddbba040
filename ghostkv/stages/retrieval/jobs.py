"""What the jobs of `retrieval` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.config.policies import FullPolicy, GhostPolicy, SomePolicy, modules_of
from ghostkv.config.resolved import resolve
from ghostkv.config.retrieval import TaskEntry
from ghostkv.files.jobs import Job
from ghostkv.stages.retrieval.schemas import DENSE

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


def question_files(run: Run) -> list[str]:
    """The user's own files that tasks are built from; none where they come from a wheel."""
    data = run.config.retrieval.data
    return [] if data == "ruler" else sorted(map(str, Path(data).glob("*.json")))


@dataclass(frozen=True)
class RetrievalPlan(Job):
    """Questions to build, and policies whose bytes ratio is theirs to fit."""

    call = "ghostkv.stages.retrieval.plan.plan"
    tables = ("samples", "thetas")
    sections = ("retrieval",)

    jobs: dict[str, TaskEntry]
    data: str
    depths: tuple[float, ...]
    seed: int
    policies: tuple[GhostPolicy, ...]
    captures: tuple[CapturedText, ...]
    layers: tuple[int, ...]
    start: int

    @classmethod
    def of(cls, run: Run) -> RetrievalPlan:
        retrieval = run.config.retrieval
        sized = [one for one in retrieval.policies if isinstance(one, GhostPolicy) and one.ratio is not None]
        return cls.taken(
            run,
            jobs=retrieval.jobs(),
            policies=[resolve(entry, run.config) for entry in sized],
            start=run.config.frontier.headline_start,
            uses=modules_of(sized),
        )


@dataclass(frozen=True)
class AskedPolicy:
    """A policy that answers.

    Attributes
    ----------
    kind : {"ours", "oracle", "peer"}
    contexts : int or None
        First contexts of the task that it answers; None for all.
    """

    policy: SomePolicy
    kind: str
    contexts: int | None


@dataclass(frozen=True)
class RetrievalTask(Job):
    """One task at one length, and who answers it."""

    call = "ghostkv.stages.retrieval.task.answer"
    tables = ("answers",)
    sections = ("retrieval",)

    name: str
    dense: FullPolicy
    policies: tuple[AskedPolicy, ...]
    measurable: float
    slack: int
    prefill: Literal["dense", "sparse"]
    dtype: str
    device: str
    captures: tuple[CapturedText, ...]
    layers: tuple[int, ...]
    start: int

    @classmethod
    def of(cls, run: Run, job: str) -> RetrievalTask:
        retrieval = run.config.retrieval
        entries = [entry for entry in retrieval.policies if entry.answers(retrieval.jobs()[job])]
        policies = tuple(
            AskedPolicy(
                resolve(entry, run.config, prefill=retrieval.prefill),
                "ours" if entry.kind in ("identity", "certified") else entry.kind,
                entry.contexts,
            )
            for entry in entries
        )
        return cls.taken(
            run,
            name=job,
            dense=resolve(FullPolicy(label=DENSE), run.config, prefill=retrieval.prefill),
            policies=policies,
            start=run.config.frontier.headline_start,
            uses=modules_of(entries),
        )


@dataclass(frozen=True)
class GatherRetrieval(Job):
    """When a task measures anything."""

    call = "ghostkv.stages.retrieval.gather.gather"
    tables = ("answers", "cells", "summary")
    sections = ("retrieval",)

    measurable: float
