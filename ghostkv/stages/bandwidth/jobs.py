"""What the jobs of `bandwidth` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.by_name import modules
from ghostkv.codecs.records import CodecSpec
from ghostkv.config.bandwidth import Measure, Served, TierEntry
from ghostkv.files.jobs import Job
from ghostkv.stages.bandwidth.schemas import MEASURED_SCHEMAS, MODEL_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class Point(Job):
    """The operating point whose survivors are read: the headline design at the largest target of one kind.

    Attributes
    ----------
    headline, rule
        The design.
    target_metric, target
        The loss, and how much of it thresholds were calibrated for.
    """

    sections = ("frontier", "bandwidth")

    headline: CodecSpec
    rule: str
    sinks: int
    hot: int
    target_metric: str
    target: float


def _point(run: Run) -> dict[str, Any]:
    metric, frontier = run.config.bandwidth.point, run.config.frontier
    return {
        "headline": run.headline_spec(),
        "rule": frontier.headline.rule,
        "target_metric": metric,
        "target": max(getattr(frontier.targets, metric), default=0.0),
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
        measure = run.config.bandwidth.measure
        return cls.taken(
            run,
            **_point(run),
            layers=run.spread_layers(measure.layers),
            patterns=measure.patterns,
            uses=modules([run.config.frontier.headline.codec]),
        )


@dataclass(frozen=True)
class CacheLosses(Job):
    """Cache types whose losses are measured, alone and under ghost records.

    Attributes
    ----------
    start : int
        First query position that counts.
    whole, under : tuple of str
        Cache types that are read whole, and those that ghost records lie over.
    """

    call = "ghostkv.stages.bandwidth.losses.cache_losses"
    tables = ("losses",)
    sections = ("frontier",)

    captures: tuple[CapturedText, ...]
    headline: CodecSpec
    layers: tuple[int, ...]
    sinks: int
    hot: int
    start: int
    queries: int
    whole: tuple[str, ...]
    under: tuple[str, ...]
    thetas: tuple[float, ...]

    @classmethod
    def of(cls, run: Run) -> CacheLosses:
        caches = run.config.bandwidth.caches
        return cls.taken(
            run,
            **caches.plain() | {"layers": run.spread_layers(caches.layers)},
            headline=run.headline_spec(),
            start=run.config.frontier.headline_start,
            uses=modules([run.config.frontier.headline.codec]),
        )


@dataclass(frozen=True)
class MeasureMemory(Job):
    """What is timed of this machine's memory and disk."""

    call = "ghostkv.stages.bandwidth.measure.measure"
    tables = tuple(MEASURED_SCHEMAS)
    sections = ("bandwidth",)

    measure: Measure


@dataclass(frozen=True)
class ModelBandwidth(Point):
    """Tiers, placements and schemes to model.

    Attributes
    ----------
    model : str
        Name of the captured model, of so many `layers`.
    masses : tuple of float
        Dropped mass that schemes are compared at, beside equal output error.
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
    page: int
    masses: tuple[float, ...]
    seed: int

    @classmethod
    def of(cls, run: Run) -> ModelBandwidth:
        bandwidth = run.config.bandwidth
        return cls.taken(
            run,
            **_point(run),
            model=run.config.model.name,
            placements=[placement.plain() for placement in bandwidth.placements],
            masses=run.config.frontier.targets.dropped_mass,
            seed=bandwidth.measure.seed,
        )
