"""What the jobs of `speed` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.by_name import modules
from ghostkv.config.speed import Steps, TimedShape
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


@dataclass(frozen=True)
class TimeSteps(Job):
    """Whole steps of the model on one text, under a policy that is fitted on captures."""

    call = "ghostkv.stages.speed.steps.time_steps"
    tables = ("steps",)
    sections = ("speed",)

    captures: tuple[CapturedText, ...]
    layers: tuple[int, ...]
    model_layers: tuple[int, ...]  # that attend
    heads: int
    model: str
    text: str
    start: int
    bits: float
    sinks: int
    hot: int
    steps: Steps

    @classmethod
    def of(cls, run: Run) -> TimeSteps:
        longest = run.config.speed.steps.contexts[-1:] or (0,)
        # The trace is the longest text.
        texts = run.trace if longest[0] > run.config.capture.tokens else run.texts_of("held_out")
        return cls.taken(
            run,
            model_layers=run.model.attending(),
            heads=run.size.heads,
            model=run.config.model.name,
            text=next(iter(texts), ""),
            start=run.config.frontier.headline_start,
            uses=(*modules(("base", "field_code")), "ghostkv.selectors.base"),
        )
