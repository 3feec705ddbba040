"""What the jobs of `frontier` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.by_name import modules
from ghostkv.codecs.records import CodecSpec
from ghostkv.config.base import GridEntry, losses
from ghostkv.config.capture import QueryBand
from ghostkv.config.frontier import Safe
from ghostkv.files.jobs import Job
from ghostkv.stages.frontier.schemas import LAYER_SCHEMAS
from ghostkv.stages.frontier.summary_schemas import SUMMARY_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class SweepLayer(Job):
    """Designs, rules and thetas to sweep over one layer; the headline design is `headline` under `rule`."""

    call = "ghostkv.stages.frontier.layer.sweep_layer"
    tables = tuple(LAYER_SCHEMAS)
    sections = ("frontier", "capture")

    layer: int
    captures: tuple[CapturedText, ...]
    codecs: tuple[CodecSpec, ...]
    sinks: int
    hot: int
    top_k: int
    headline_start: int
    grids: dict[str, GridEntry]
    targets: dict[str, tuple[float, ...]]
    safe: Safe
    headline: CodecSpec
    rule: str
    query_bands: tuple[QueryBand, ...]

    @classmethod
    def of(cls, run: Run, layer: str) -> SweepLayer:
        frontier, codecs = run.config.frontier, run.swept(int(layer))
        return cls.taken(
            run,
            layer=layer,
            codecs=codecs,
            headline=run.headline_spec(),
            rule=frontier.headline.rule,
            grids=frontier.grids(),
            targets=losses(frontier.targets),
            uses=modules(spec.name for spec in codecs),
        )


@dataclass(frozen=True)
class GatherFrontier(Job):
    """All layers."""

    call = "ghostkv.stages.frontier.gather.gather"
    tables = tuple(LAYER_SCHEMAS)


@dataclass(frozen=True)
class SummariseHeads(Job):
    """When a head counts as safe."""

    call = "ghostkv.stages.frontier.heads.summarise_heads"
    tables = tuple(SUMMARY_SCHEMAS)
    sections = ("frontier",)

    safe: Safe
