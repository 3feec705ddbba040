"""What the job of `historical` depends on."""

from __future__ import annotations

from dataclasses import dataclass

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.config.base import GridEntry
from ghostkv.files.jobs import Job
from ghostkv.stages.historical.schemas import SCHEMAS


@dataclass(frozen=True)
class HistoricalRun(Job):
    """The predecessor's protocol: its numbers, and what counts as safe."""

    call = "ghostkv.stages.historical.run.run"
    tables = tuple(SCHEMAS)
    sections = ("historical",)

    captures: tuple[CapturedText, ...]
    layers: tuple[int, ...]
    dtype: str
    device: str
    dimensions: tuple[int, ...]
    epsilon: float
    sigma: float
    thetas: GridEntry
    prompt_tokens: tuple[int, ...]
    prompts: int
    top_k: int
    passage_tokens: int
    long_queries: int
    sinks: int
    hot: int
    fer: float
    elimination: float
    seed: int
