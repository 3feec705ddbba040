"""What the job of `trace` depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.captures.recording import Recording

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class TraceText(Recording):
    """The long text through the model, every query of its last `steps` tokens."""

    call = "ghostkv.stages.trace.text.trace_text"
    sections = ("capture",)

    steps: int

    @classmethod
    def of(cls, run: Run) -> TraceText:
        ((name, entry),) = run.trace.items()
        own = {"text": name, "tokens": entry["tokens"], "steps": entry["steps"]}
        return cls.taken(run, layers=run.layers, **own)
