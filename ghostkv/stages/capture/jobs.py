"""What the jobs of `capture` depend on."""

from __future__ import annotations

from dataclasses import dataclass

from ghostkv.captures.recording import Recording
from ghostkv.config.capture import QueryBand
from ghostkv.files.jobs import Job
from ghostkv.stages.run import Run


@dataclass(frozen=True)
class CaptureText(Recording):
    """A text through the model, queries sampled by position."""

    call = "ghostkv.stages.capture.text.capture_text"

    query_bands: tuple[QueryBand, ...]
    seed: int

    @classmethod
    def of(cls, run: Run, text: str) -> CaptureText:
        """The job of a text of a run."""
        capture = run.config.capture
        return cls(
            text=text,
            tokens=capture.tokens,
            layers=run.layers,
            dtype=run.config.model.dtype,
            cache_dtype=capture.cache_dtype,
            tolerance=capture.tolerance,
            query_bands=tuple(capture.query_bands),
            seed=capture.seed,
        )


@dataclass(frozen=True)
class ImportTensors(Job):
    """A folder of captured tensors that stands for a text.

    Attributes
    ----------
    scale : float or None
        Factor of the score; None for 1/sqrt(head_dim).
    """

    call = "ghostkv.stages.capture.imported.import_tensors"

    text: str
    domain: str
    role: str
    folder: str
    scale: float | None
    tokens: int
    layers: tuple[int, ...]
    query_bands: tuple[QueryBand, ...]
    seed: int

    @classmethod
    def of(cls, run: Run, text: str) -> ImportTensors:
        """The job of a text of a run."""
        capture = run.config.capture
        return cls(
            text=text,
            **run.imports[text],
            tokens=capture.tokens,
            layers=run.layers,
            query_bands=tuple(capture.query_bands),
            seed=capture.seed,
        )
