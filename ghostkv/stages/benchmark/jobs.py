"""What the jobs of `benchmark` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.files.jobs import Job

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class SweepSpeed(Job):
    """Sizes of the sweep that is timed beside loops."""

    call = "ghostkv.stages.benchmark.sweep_speed.sweep_speed"
    tables = ("sweep_speed",)
    sections = ("benchmark",)

    thetas: tuple[int, ...]
    repeats: int
    keys: int
    queries: int
    seed: int


@dataclass(frozen=True)
class CaptureOverhead(Job):
    """Length and repeats of the capture that is timed beside a plain forward pass."""

    call = "ghostkv.stages.benchmark.capture_overhead.capture_overhead"
    tables = ("capture_overhead",)
    sections = ("benchmark",)

    tokens: int
    repeats: int
    dtype: str
    device: str
    chunk: int | None

    @classmethod
    def of(cls, run: Run) -> CaptureOverhead:
        tokens = run.config.benchmark.tokens or run.config.capture.tokens
        return cls.taken(run, tokens=tokens, chunk=run.config.capture.chunk)
