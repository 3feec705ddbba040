"""What the jobs of `calibrated` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.by_name import modules
from ghostkv.codecs.records import CodecSpec
from ghostkv.codecs.sizes import code_bytes
from ghostkv.config.base import GridEntry, losses
from ghostkv.config.calibrated import LearnedCodec, Validity
from ghostkv.files.jobs import Job
from ghostkv.stages.calibrated.schemas import LAYER_SCHEMAS
from ghostkv.stages.calibrated.summary_schemas import SUMMARY_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class CalibrateLayer(Job):
    """Designs and risks to calibrate thresholds of one layer for.

    Attributes
    ----------
    sizes : tuple of CodecSpec
        The headline design, then the other sizes of its codec.
    sketched : tuple of CodecSpec
        Those that the sketch has; the rest is fitted here.
    grids : dict
        Rule -> the frontier's thetas, each step divided into `refine`: a threshold that falls between two thetas
        eliminates what the lower one does, and the step is bytes given away.
    """

    call = "ghostkv.stages.calibrated.layer.calibrate_layer"
    tables = tuple(LAYER_SCHEMAS)
    sections = ("frontier", "calibrated")

    layer: int
    captures: tuple[CapturedText, ...]
    sizes: tuple[CodecSpec, ...]
    sketched: tuple[CodecSpec, ...]
    sinks: int
    hot: int
    top_k: int
    headline_start: int
    grids: dict[str, GridEntry]
    targets: dict[str, tuple[float, ...]]
    cross_domain: dict[str, tuple[float, ...]]
    group: dict[str, tuple[float, ...]]
    bands: tuple[int, ...]
    page: int
    validity: Validity
    learned: LearnedCodec
    seed: int

    @classmethod
    def of(cls, run: Run, layer: str) -> CalibrateLayer:
        frontier, calibrated = run.config.frontier, run.config.calibrated
        headline = frontier.headline
        others = [CodecSpec(headline.codec, code_bytes(bits, run.key_width)) for bits in calibrated.bits]
        # At a small head_dim another size may be the headline's record too.
        sizes = (run.headline_spec(), *(spec for spec in others if spec != run.headline_spec()))
        wanted = {headline.rule, *calibrated.rules}
        grids = {rule: grid for rule, grid in frontier.grids().items() if rule in wanted}
        return cls.taken(
            run,
            layer=layer,
            sizes=sizes,
            sketched=[spec for spec in sizes if spec in run.codecs],
            grids={rule: _refined(grid, calibrated.refine) for rule, grid in grids.items()},
            targets=losses(calibrated.targets),
            cross_domain=losses(calibrated.cross_domain),
            group=losses(calibrated.group),
            seed=run.config.sketch.seed,
            uses=modules([headline.codec]),
        )


def _refined(grid: GridEntry, steps: int) -> GridEntry:
    return GridEntry(start=grid.start, stop=grid.stop, count=(grid.count - 1) * steps + 1)


@dataclass(frozen=True)
class GatherCalibrated(Job):
    """All layers."""

    call = "ghostkv.stages.calibrated.gather.gather"
    tables = (*LAYER_SCHEMAS, *SUMMARY_SCHEMAS)
    sections = ("calibrated",)

    validity: Validity
