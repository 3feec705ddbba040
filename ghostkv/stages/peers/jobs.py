"""What the jobs of `peers` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.by_name import modules
from ghostkv.codecs.records import CodecSpec
from ghostkv.files.jobs import Job
from ghostkv.stages.peers.schemas import LAYER_SCHEMAS
from ghostkv.stages.peers.summary_schemas import SUMMARY_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class PeersLayer(Job):
    """Selectors to measure on one layer, and at how many bytes.

    Attributes
    ----------
    selectors : tuple of dict
        Name and hyperparameters of each.
    sketched : tuple of CodecSpec
        Codecs that the sketch has; others that a selector asks for are fitted with `sketch_seed`.
    """

    call = "ghostkv.stages.peers.layer.measure_layer"
    tables = tuple(LAYER_SCHEMAS)
    sections = ("frontier", "peers")

    layer: int
    captures: tuple[CapturedText, ...]
    selectors: tuple[dict[str, Any], ...]
    ratios: tuple[float, ...]
    sinks: int
    hot: int
    top_k: int
    headline_start: int
    sketched: tuple[CodecSpec, ...]
    sketch_seed: int
    seed: int

    @classmethod
    def of(cls, run: Run, layer: str) -> PeersLayer:
        named = sorted({entry.name for entry in run.config.peers.selectors})
        sketched = run.sketched(int(layer))
        return cls.taken(
            run,
            layer=layer,
            selectors=[entry.plain() for entry in run.config.peers.selectors],
            sketched=sketched,
            sketch_seed=run.config.sketch.seed,
            uses=(
                *modules(spec.name for spec in sketched),
                *(f"ghostkv.selectors.{name}" for name in named),
            ),
        )


@dataclass(frozen=True)
class GatherPeers(Job):
    """All layers."""

    call = "ghostkv.stages.peers.gather.gather"
    tables = (*LAYER_SCHEMAS, *SUMMARY_SCHEMAS)
