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
from ghostkv.config.quality import Ablation, Generation, QualityEntry, text_parts
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
class DecodedText:
    """A held-out text, and what is asked of it."""

    text: str
    policies: tuple[DecodedPolicy, ...]
    ablation: Ablation
    generation: Generation

    @classmethod
    def of(cls, run: Run, text: str) -> DecodedText:
        asked = run.config.quality.of_text(int(text.rpartition("_")[2]))
        policies = tuple(DecodedPolicy.of(run, entry) for entry in asked.policies)
        return cls(text, policies, asked.ablation, asked.generation)


@dataclass(frozen=True)
class QualityTexts(FittedJob):
    """Policies that decode some texts, one text after the other: what is fitted serves all of them."""

    call = "ghostkv.stages.quality.text.measure_texts"
    tables = tuple(TEXT_TABLES)
    texts: tuple[DecodedText, ...]
    context: int
    continuation: int
    dtype: str
    device: str
    cache_dtype: str

    @classmethod
    def of(cls, run: Run, part: str) -> QualityTexts:
        texts = [DecodedText.of(run, text) for text in text_parts(run.texts_of("held_out"))[part]]
        used = modules_of(one.policy for text in texts for one in text.policies)
        read = {"context": _context(run), "cache_dtype": run.config.capture.cache_dtype}
        return cls.taken(run, **_parts(run), **read, texts=texts, uses=used)


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
