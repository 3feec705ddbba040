"""What the job of `trace` depends on."""

from __future__ import annotations

from dataclasses import dataclass

from ghostkv.captures.recording import Recording
from ghostkv.stages.run import Run


@dataclass(frozen=True)
class TraceText(Recording):
    """The long text through the model, every query of its last `steps` tokens."""

    call = "ghostkv.stages.trace.text.trace_text"

    steps: int

    @classmethod
    def of(cls, run: Run) -> TraceText:
        """The job of a run, which has a trace."""
        ((name, entry),) = run.trace.items()
        capture = run.config.capture
        return cls(
            text=name,
            tokens=entry["tokens"],
            layers=run.layers,
            dtype=run.config.model.dtype,
            cache_dtype=capture.cache_dtype,
            tolerance=capture.tolerance,
            steps=entry["steps"],
        )
