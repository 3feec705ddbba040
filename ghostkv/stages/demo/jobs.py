"""What the demonstration's own job depends on; its captures, sketch and frontier are those of a run of its own config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.config.policies import GhostPolicy, modules_of
from ghostkv.config.resolved import resolve
from ghostkv.files.jobs import Job

if TYPE_CHECKING:
    from ghostkv.stages.run import Run

# Layers that are swept; all are sketched, as the model decodes with records in every one.
_SWEPT = 6
# Tokens that are written, of a context that ends as many before the end of the text.
_TOKENS = 72
POLICY = GhostPolicy(label="ghost_030", ratio=0.3)


def swept_layers(run: Run) -> tuple[int, ...]:
    """Layers whose frontier is measured."""
    return run.spread_layers(_SWEPT)


@dataclass(frozen=True)
class WriteOn(Job):
    """The model goes on with a text, densely and under elimination."""

    call = "ghostkv.stages.demo.write_on.write_on"
    tables = ("writing",)

    captures: tuple[CapturedText, ...]
    layers: tuple[int, ...]
    start: int
    text: str
    context: int
    tokens: int
    dtype: str
    device: str
    policy: GhostPolicy

    @classmethod
    def of(cls, run: Run) -> WriteOn:
        # Of the records that it sketches.
        headline = run.config.frontier.headline
        policy = resolve(POLICY, run.config, codec=headline.codec, bits=headline.bits)
        return cls.taken(
            run,
            start=run.config.frontier.headline_start,
            text=run.texts_of("held_out")[0],
            context=run.config.capture.tokens - _TOKENS,
            tokens=_TOKENS,
            policy=policy,
            uses=modules_of([policy]),
        )
