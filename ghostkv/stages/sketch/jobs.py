"""What the jobs of `sketch` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.by_name import modules
from ghostkv.codecs.records import CodecSpec
from ghostkv.files.jobs import Job

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class SketchLayer(Job):
    """Codecs to fit to one layer.

    Attributes
    ----------
    codecs : tuple of CodecSpec
        Those whose records are written.
    fitted : tuple of CodecSpec
        Others, which policies read.
    """

    call = "ghostkv.stages.sketch.layer.sketch_layer"

    layer: int
    captures: tuple[CapturedText, ...]
    codecs: tuple[CodecSpec, ...]
    fitted: tuple[CodecSpec, ...]
    seed: int

    @classmethod
    def of(cls, run: Run, layer: str) -> SketchLayer:
        codecs, fitted = run.sketched(int(layer)), run.fitted(int(layer))
        return cls.taken(
            run,
            layer=layer,
            codecs=codecs,
            fitted=fitted,
            seed=run.config.sketch.seed,
            uses=modules(spec.name for spec in (*codecs, *fitted)),
        )
