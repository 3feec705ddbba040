"""What the jobs of `decode` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghostkv.codecs.by_name import modules
from ghostkv.codecs.records import CodecSpec
from ghostkv.config.base import GridEntry
from ghostkv.config.decode import DecodeOverlap
from ghostkv.config.frontier import Safe
from ghostkv.files.jobs import Job
from ghostkv.stages.decode.schemas import OVERLAP_SCHEMAS, SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class Lives(Job):
    """How every token of a decode lives: what is read, and which memory holds what.

    Attributes
    ----------
    headline, rule
        The headline design.
    target : float
        False elimination rate that thresholds were chosen for.
    """

    sections = ("frontier", "decode")

    headline: CodecSpec
    rule: str
    sinks: int
    hot: int
    top_k: int
    target: float
    warm: float
    budgets: tuple[float, ...]
    budget_heads: int
    ghost: float
    batch: int
    window: int
    decay: float
    bin: int
    requests: tuple[int, ...]
    buffers: tuple[int, ...]


def stored_layer(run: Run) -> int:
    """The layer whose K and V go through a real store: the middle one of those that are decoded."""
    chosen = run.spread_layers(run.config.decode.layers)
    return chosen[len(chosen) // 2]


def _lives(run: Run) -> dict[str, Any]:
    frontier = run.config.frontier
    return {
        "rule": frontier.headline.rule,
        "target": min(frontier.targets.fer),
        "uses": modules([frontier.headline.codec]),
    }


@dataclass(frozen=True)
class DecodeLayer(Lives):
    """One layer of the trace.

    Attributes
    ----------
    stored : bool
        Whether this is the layer that is decoded through a real store as well.
    """

    call = "ghostkv.stages.decode.layer.measure_layer"
    tables = tuple(SCHEMAS)

    layer: int
    stored: bool
    store_policy: str
    block_every: int
    segment: int

    @classmethod
    def of(cls, run: Run, layer: str) -> DecodeLayer:
        stored = int(layer) == stored_layer(run)
        return cls.taken(run, layer=layer, stored=stored, headline=run.headline_spec(), **_lives(run))


@dataclass(frozen=True)
class TimeOverlap(Job):
    """One layer of the trace over a hot buffer and a real store, timed alone on the machine."""

    call = "ghostkv.stages.decode.overlap.time_overlap"
    tables = tuple(OVERLAP_SCHEMAS)
    sections = ("frontier", "decode")

    layer: int
    headline: CodecSpec
    rule: str
    sinks: int
    hot: int
    top_k: int
    target: float
    decay: float
    segment: int
    overlap: DecodeOverlap

    @classmethod
    def of(cls, run: Run) -> TimeOverlap:
        return cls.taken(run, layer=stored_layer(run), headline=run.headline_spec(), **_lives(run))


@dataclass(frozen=True)
class DecodeGenerated(Lives):
    """Generated tensors, with codec and thresholds of their own.

    Attributes
    ----------
    grid : GridEntry
        Thetas of the headline rule.
    """

    call = "ghostkv.stages.decode.generated.measure_generated"
    tables = tuple(name for name in SCHEMAS if name != "store")

    generators: tuple[dict[str, Any], ...]
    tokens: int
    steps: int
    group: int
    head_dim: int
    grid: GridEntry
    safe: Safe

    @classmethod
    def of(cls, run: Run) -> DecodeGenerated:
        frontier, options = run.config.frontier, run.config.decode.synthetic
        return cls.taken(
            run,
            **_lives(run),
            headline=run.headline_spec(options.head_dim),
            generators=[entry.plain() for entry in options.generators],
            tokens=options.tokens,
            steps=options.steps,
            group=options.group,
            head_dim=options.head_dim,
            grid=frontier.grids()[frontier.headline.rule],
        )


@dataclass(frozen=True)
class GatherDecode(Job):
    """All layers and the generated decodes."""

    call = "ghostkv.stages.decode.gather.gather"
    tables = tuple(SCHEMAS)
