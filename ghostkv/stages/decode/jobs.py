"""What the jobs of `decode` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ghostkv.codecs.by_name import modules
from ghostkv.config.base import GridEntry
from ghostkv.config.frontier import Headline, Safe
from ghostkv.files.jobs import Job
from ghostkv.stages.decode.schemas import SCHEMAS
from ghostkv.stages.run import Run


@dataclass(frozen=True)
class Lives(Job):
    """How every token of a decode lives: what is read, and which memory holds what.

    Attributes
    ----------
    target : float
        False elimination rate that thresholds were chosen for.
    """

    headline: Headline
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


def _lives(run: Run) -> dict[str, Any]:
    frontier, decode = run.config.frontier, run.config.decode
    return {
        "headline": frontier.headline,
        "sinks": frontier.sinks,
        "hot": frontier.hot,
        "top_k": frontier.top_k,
        "target": min(frontier.targets.fer),
        "warm": decode.warm,
        "budgets": tuple(decode.budgets),
        "budget_heads": decode.budget_heads,
        "ghost": decode.ghost,
        "batch": decode.batch,
        "window": decode.window,
        "decay": decode.decay,
        "bin": decode.bin,
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
        """The job of a layer of a run."""
        decode, chosen = run.config.decode, run.spread_layers(run.config.decode.layers)
        return cls(
            **_lives(run),
            layer=int(layer),
            stored=int(layer) == chosen[len(chosen) // 2],
            store_policy=decode.store_policy,
            block_every=decode.block_every,
            segment=decode.segment,
        )


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
        """The job of a run."""
        frontier, options = run.config.frontier, run.config.decode.synthetic
        return cls(
            **_lives(run),
            generators=tuple(entry.plain() for entry in options.generators),
            tokens=options.tokens,
            steps=options.steps,
            group=options.group,
            head_dim=options.head_dim,
            grid=frontier.grids()[frontier.headline.rule],
            safe=frontier.safe,
        )


@dataclass(frozen=True)
class GatherDecode(Job):
    """All layers and the generated decodes."""

    call = "ghostkv.stages.decode.gather.gather"
    tables = tuple(SCHEMAS)

    @classmethod
    def of(cls, run: Run) -> GatherDecode:
        """The job of a run."""
        return cls()
