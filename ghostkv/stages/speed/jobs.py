"""What the job of `speed` depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.config.speed import TimedShape
from ghostkv.files.jobs import Job

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class TimeLayers(Job):
    """Shapes, contexts and threads of the layers that are timed, and the captured layer that lends its spectrum."""

    call = "ghostkv.stages.speed.layers.time_layers"
    tables = ("layers",)
    sections = ("speed",)

    captures: tuple[CapturedText, ...]
    layer: int
    shapes: tuple[TimedShape, ...]
    headline_shape: str | None
    thread_counts: tuple[int, ...]
    bits: float
    output_error: float
    queries: int
    sinks: int
    hot: int
    rounds: int
    seed: int

    @classmethod
    def of(cls, run: Run) -> TimeLayers:
        return cls.taken(run, layer=run.layers[len(run.layers) // 2])
