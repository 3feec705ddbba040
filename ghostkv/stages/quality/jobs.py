"""What the jobs of `quality` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.config.policies import (
    CalibratedPolicy,
    GhostPolicy,
    SelectorPolicy,
    SomePolicy,
    modules_of,
)
from ghostkv.config.quality import Ablation, Generation, QualityEntry
from ghostkv.config.resolved import resolve
from ghostkv.files.jobs import Job
from ghostkv.stages.quality.families import family_of
from ghostkv.stages.quality.schemas import FIT_TABLES, TEXT_TABLES
from ghostkv.stages.quality.summary_schemas import SUMMARY_TABLES

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class DecodedPolicy:
    """A policy that decodes, and how tables file it.

    Attributes
    ----------
    policy : SomePolicy
    kind : {"identity", "certified", "ours", "oracle", "peer"}
    family : str
        Policies that differ in bytes alone share one, which is a line of the charts.
    asked : float or None
        The bytes ratio, mass or risk that was asked for.
    positions : int
        How much of the continuation it decodes.
    """

    policy: SomePolicy
    kind: str
    family: str
    asked: float | None
    positions: int

    @classmethod
    def of(cls, run: Run, entry: QualityEntry) -> DecodedPolicy:
        """An entry of `quality.policies`, with what it leaves open filled in."""
        continuation, policy = run.config.quality.continuation, resolve(entry, run.config)
        positions = min(entry.positions or continuation, continuation)
        return cls(policy, entry.kind, family_of(policy, run.config), entry.asked, positions)


@dataclass(frozen=True)
class FittedJob(Job):
    """A job whose policies take their parts from captures, sketch and frontier."""

    sections = ("quality",)

    captures: tuple[CapturedText, ...]
    layers: tuple[int, ...]
    model_layers: tuple[int, ...]  # that attend
    start: int


def _parts(run: Run) -> dict[str, Any]:
    return {"model_layers": run.model.attending(), "start": run.config.frontier.headline_start}


def _context(run: Run) -> int:
    return run.config.capture.tokens - run.config.quality.continuation


@dataclass(frozen=True)
class FitPolicies(FittedJob):
    """Policies with one threshold for a bytes ratio of the whole model, or that promise a mean loss of each head."""

    call = "ghostkv.stages.quality.fit.fit_policies"
    tables = tuple(FIT_TABLES)

    policies: tuple[GhostPolicy | CalibratedPolicy | SelectorPolicy, ...]

    @classmethod
    def of(cls, run: Run) -> FitPolicies:
        entries = [one for one in run.config.quality.policies if _is_fitted(one)]
        policies = tuple(resolve(entry, run.config) for entry in entries)
        return cls.taken(run, **_parts(run), policies=policies, uses=modules_of(policies))


def _is_fitted(entry: QualityEntry) -> bool:
    match entry:
        case GhostPolicy():
            return entry.ratio is not None
        case SelectorPolicy():
            return entry.column != "alone" and entry.theta is None
    return isinstance(entry, CalibratedPolicy)


@dataclass(frozen=True)
class QualityText(FittedJob):
    """Policies that decode one text."""

    call = "ghostkv.stages.quality.text.measure_text"
    tables = tuple(TEXT_TABLES)

    text: str
    policies: tuple[DecodedPolicy, ...]
    context: int
    continuation: int
    dtype: str
    device: str
    ablation: Ablation
    generation: Generation

    @classmethod
    def of(cls, run: Run, text: str) -> QualityText:
        asked = run.config.quality.of_text(int(text.rpartition("_")[2]))
        policies = [DecodedPolicy.of(run, entry) for entry in asked.policies]
        used = modules_of(one.policy for one in policies)
        whole = {"ablation": asked.ablation, "generation": asked.generation}
        return cls.taken(
            run, **_parts(run), context=_context(run), text=text, policies=policies, uses=used, **whole
        )


@dataclass(frozen=True)
class GatherQuality(Job):
    """How sure means are, and what the headline quotes."""

    call = "ghostkv.stages.quality.gather.gather"
    tables = (*TEXT_TABLES, *SUMMARY_TABLES)
    sections = ("quality",)

    block: int
    replicates: int
    seed: int
    headline: dict[str, str]
