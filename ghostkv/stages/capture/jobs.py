"""What the jobs of `capture` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.captures.recording import Recording
from ghostkv.config.capture import QueryBand
from ghostkv.files.jobs import Job

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class CaptureText(Recording):
    """A text through the model, queries sampled by position."""

    call = "ghostkv.stages.capture.text.capture_text"
    sections = ("capture",)

    query_bands: tuple[QueryBand, ...]
    seed: int

    @classmethod
    def of(cls, run: Run, text: str) -> CaptureText:
        bands = run.config.query_bands(run.texts[text]["role"])
        return cls.taken(run, text=text, layers=run.layers, query_bands=bands)


@dataclass(frozen=True)
class ImportTensors(Job):
    """A folder of captured tensors that stands for a text.

    Attributes
    ----------
    scale : float or None
        Factor of the score; None for 1/sqrt(head_dim).
    """

    call = "ghostkv.stages.capture.imported.import_tensors"
    sections = ("capture",)

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
        folder = run.imports[text]
        bands = run.config.query_bands(folder["role"])
        return cls.taken(run, text=text, layers=run.layers, query_bands=bands, **folder)
