"""What the jobs of `hierarchy` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.config.hierarchy import IndexEntry
from ghostkv.files.jobs import Job
from ghostkv.stages.hierarchy.schemas import SCHEMAS
from ghostkv.stages.hierarchy.summary_schemas import SUMMARY_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class HierarchyLayer(Job):
    """Indexes to compare with the flat scan of one layer.

    Attributes
    ----------
    captures : tuple of CapturedText
        The long text last, with the role `trace`, where there is one.
    levels, shares, probes
        Of the certificate that is scanned for.
    calibrated : IndexEntry
        Index of the statistical variant, which aims at a false elimination rate of `fer`.
    """

    call = "ghostkv.stages.hierarchy.layer.measure_layer"
    tables = tuple(SCHEMAS)
    sections = ("frontier", "certificates", "hierarchy")

    layer: int
    captures: tuple[CapturedText, ...]
    sinks: int
    hot: int
    top_k: int
    levels: tuple[float, ...]
    shares: tuple[float, ...]
    probes: int
    indexes: tuple[IndexEntry, ...]
    calibrated: IndexEntry
    fer: float
    queries: int
    compare_every: int
    block: int
    chunk: int
    seed_keys: int
    bypass: bool
    refresh: int
    deltas: tuple[float, ...]

    @classmethod
    def of(cls, run: Run, layer: str) -> HierarchyLayer:
        texts, deltas = (*run.captures, *run.traces), run.config.hierarchy.deltas
        return cls.taken(run, layer=layer, captures=texts, deltas=deltas)


@dataclass(frozen=True)
class GatherHierarchy(Job):
    """All layers."""

    call = "ghostkv.stages.hierarchy.gather.gather"
    tables = (*SCHEMAS, *SUMMARY_SCHEMAS)
