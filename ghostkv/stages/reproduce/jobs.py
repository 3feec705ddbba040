"""What the jobs of `reproduce` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.files.jobs import Job
from ghostkv.stages.reproduce.schemas import (
    CHARACTER_SCHEMAS,
    ERROR_SCHEMAS,
    PREDECESSOR_SCHEMAS,
    RECALL_SCHEMAS,
)

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class RepeatPredecessor(Job):
    """The rows of the predecessor's `metrics.csv` whose tensors are there."""

    call = "ghostkv.stages.reproduce.predecessor.repeat_predecessor"
    tables = tuple(PREDECESSOR_SCHEMAS)
    sections = ("reproduce",)

    seed: int


@dataclass(frozen=True)
class RecallTable(Job):
    """Louver's recall table, of one layer.

    Attributes
    ----------
    layer : int
        The middle one.
    """

    call = "ghostkv.stages.reproduce.recall.recall_table"
    tables = tuple(RECALL_SCHEMAS)
    sections = ("frontier", "reproduce")

    captures: tuple[CapturedText, ...]
    layer: int
    sinks: int
    hot: int
    recall_positions: int
    recall_at: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, run: Run) -> RecallTable:
        return cls.taken(run, layer=run.layers[len(run.layers) // 2])


@dataclass(frozen=True)
class ErrorTable(Job):
    """SkyLight's table of attention errors, of some layers."""

    call = "ghostkv.stages.reproduce.errors.error_table"
    tables = tuple(ERROR_SCHEMAS)
    sections = ("reproduce",)

    captures: tuple[CapturedText, ...]
    layers: tuple[int, ...]
    error_queries: int
    densities: tuple[float, ...]
    seed: int

    @classmethod
    def of(cls, run: Run) -> ErrorTable:
        return cls.taken(run, layers=run.spread_layers(run.config.reproduce.error_layers))


@dataclass(frozen=True)
class CharacterTable(Job):
    """SparQ's bits per character, of the model itself."""

    call = "ghostkv.stages.reproduce.sparq.characters.character_table"
    tables = tuple(CHARACTER_SCHEMAS)
    sections = ("reproduce",)

    captures: tuple[CapturedText, ...]
    layers: tuple[int, ...]
    model_layers: tuple[int, ...]  # that attend
    tokens: int
    read_characters: int
    foretold_characters: int
    dtype: str
    device: str
    cache_dtype: str

    @classmethod
    def of(cls, run: Run) -> CharacterTable:
        capture = run.config.capture
        read = {"tokens": capture.tokens, "cache_dtype": capture.cache_dtype}
        layers = run.layers if run.imports else run.model.attending()
        return cls.taken(run, model_layers=layers, **read)
