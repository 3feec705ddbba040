"""What the jobs of `bandwidth` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.by_name import modules
from ghostkv.config.bandwidth import Measure, Served, TierEntry
from ghostkv.config.frontier import Headline
from ghostkv.files.jobs import Job
from ghostkv.stages.bandwidth.schemas import MEASURED_SCHEMAS, MODEL_SCHEMAS
from ghostkv.stages.run import Run


@dataclass(frozen=True)
class Point(Job):
    """The operating point whose survivors are read: the headline design at the least loss of one kind.

    Attributes
    ----------
    target_metric, target
        The loss, and how much of it thresholds were calibrated for.
    """

    headline: Headline
    sinks: int
    hot: int
    target_metric: str
    target: float


def _point(run: Run) -> dict[str, Any]:
    frontier, metric = run.config.frontier, run.config.bandwidth.point
    return {
        "headline": frontier.headline,
        "sinks": frontier.sinks,
        "hot": frontier.hot,
        "target_metric": metric,
        "target": min(getattr(frontier.targets, metric), default=0.0),
    }


@dataclass(frozen=True)
class SurvivorPatterns(Point):
    """Whose survivors give index patterns.

    Attributes
    ----------
    patterns : int
        Queries a layer.
    """

    call = "ghostkv.stages.bandwidth.patterns.survivor_patterns"
    tables = ("patterns",)

    captures: tuple[CapturedText, ...]
    layers: tuple[int, ...]
    top_k: int
    patterns: int

    @classmethod
    def of(cls, run: Run) -> SurvivorPatterns:
        """The job of a run."""
        measure = run.config.bandwidth.measure
        return cls(
            **_point(run),
            captures=run.captures,
            layers=run.spread_layers(measure.layers),
            top_k=run.config.frontier.top_k,
            patterns=measure.patterns,
            uses=modules([run.config.frontier.headline.codec]),
        )


@dataclass(frozen=True)
class MeasureMemory(Job):
    """What is timed of this machine's memory and disk."""

    call = "ghostkv.stages.bandwidth.measure.measure"
    tables = tuple(MEASURED_SCHEMAS)

    measure: Measure

    @classmethod
    def of(cls, run: Run) -> MeasureMemory:
        """The job of a run."""
        return cls(run.config.bandwidth.measure)


@dataclass(frozen=True)
class ModelBandwidth(Point):
    """Tiers, placements and schemes to model.

    Attributes
    ----------
    model : str
        Name of the captured model, of so many `layers`.
    seed : int
        Of the halves that a fit is checked on.
    """

    call = "ghostkv.stages.bandwidth.model.model_bandwidth"
    tables = tuple(MODEL_SCHEMAS)

    model: str
    layers: tuple[int, ...]
    tiers: tuple[TierEntry, ...]
    placements: tuple[dict[str, str], ...]
    served: Served
    contexts: tuple[int, ...]
    headline_context: int
    overlap: float
    phase_us: float
    quant_group: int
    page: int
    seed: int

    @classmethod
    def of(cls, run: Run) -> ModelBandwidth:
        """The job of a run."""
        bandwidth = run.config.bandwidth
        return cls(
            **_point(run),
            model=run.config.model.name,
            layers=run.layers,
            tiers=tuple(bandwidth.tiers),
            placements=tuple(placement.plain() for placement in bandwidth.placements),
            served=bandwidth.served,
            contexts=tuple(bandwidth.contexts),
            headline_context=bandwidth.headline_context,
            overlap=bandwidth.overlap,
            phase_us=bandwidth.phase_us,
            quant_group=bandwidth.quant_group,
            page=bandwidth.page,
            seed=bandwidth.measure.seed,
        )
