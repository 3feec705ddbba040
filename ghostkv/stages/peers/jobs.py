"""What the jobs of `peers` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.by_name import modules
from ghostkv.codecs.records import CodecSpec
from ghostkv.codecs.sizes import code_bytes
from ghostkv.config.selectors import selector_options
from ghostkv.files.jobs import Job
from ghostkv.stages.peers.schemas import LAYER_SCHEMAS
from ghostkv.stages.peers.summary_schemas import SUMMARY_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


def _apart(entries: list[dict[str, Any]], head_dim: int) -> list[dict[str, Any]]:
    """Without sizes of our record that come to the same bytes of so narrow a key as one before, or to less than one."""
    found, sizes = [], set()
    for entry in entries:
        if entry["name"] == "ghost":
            given = selector_options("ghost") | entry
            size = given["codec"], code_bytes(given["bits"], head_dim)
            if size in sizes or given["bits"] * head_dim < 8:
                continue
            sizes.add(size)
        found.append(entry)
    return found


@dataclass(frozen=True)
class PeersLayer(Job):
    """Selectors to measure on one layer, and at how many bytes.

    Attributes
    ----------
    selectors : tuple of dict
        Name and hyperparameters of each.
    sketched, fitted : tuple of CodecSpec
        Codecs that the sketch has, with records and without; others that a selector asks for are fitted with `sketch_seed`.
    """

    call = "ghostkv.stages.peers.layer.measure_layer"
    tables = tuple(LAYER_SCHEMAS)
    sections = ("frontier", "peers")

    layer: int
    captures: tuple[CapturedText, ...]
    selectors: tuple[dict[str, Any], ...]
    caches: tuple[str, ...]
    ratios: tuple[float, ...]
    sinks: int
    hot: int
    top_k: int
    headline_start: int
    sketched: tuple[CodecSpec, ...]
    fitted: tuple[CodecSpec, ...]
    sketch_seed: int
    seed: int

    @classmethod
    def of(cls, run: Run, layer: str) -> PeersLayer:
        named = sorted({entry.name for entry in run.config.peers.selectors})
        sketched, fitted = run.sketched(int(layer)), run.fitted(int(layer))
        return cls.taken(
            run,
            layer=layer,
            selectors=_apart([entry.plain() for entry in run.config.peers.selectors], run.key_width),
            sketched=sketched,
            fitted=fitted,
            sketch_seed=run.config.sketch.seed,
            uses=(
                *modules({"transform_code", "turned_code", "vector_code", *(spec.name for spec in sketched)}),
                *(f"ghostkv.selectors.{name}" for name in named),
            ),
        )


@dataclass(frozen=True)
class GatherPeers(Job):
    """All layers."""

    call = "ghostkv.stages.peers.gather.gather"
    tables = (*LAYER_SCHEMAS, *SUMMARY_SCHEMAS)
