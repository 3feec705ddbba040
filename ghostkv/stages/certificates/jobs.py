"""What the jobs of `certificates` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.by_name import modules
from ghostkv.codecs.records import CodecSpec
from ghostkv.config.capture import QueryBand
from ghostkv.files.jobs import Job
from ghostkv.stages.certificates.schemas import SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class CertifyLayer(Job):
    """What to prove of one layer, and what to compare it with.

    Attributes
    ----------
    compared : tuple of CodecSpec
        Codecs of one level, beside the nested record.
    """

    call = "ghostkv.stages.certificates.layer.certify_layer"
    tables = tuple(SCHEMAS)
    sections = ("frontier", "certificates", "capture")

    layer: int
    captures: tuple[CapturedText, ...]
    sinks: int
    hot: int
    top_k: int
    headline_start: int
    levels: tuple[float, ...]
    shares: tuple[float, ...]
    probes: int
    deltas: tuple[float, ...]
    bounds: tuple[str, ...]
    compared: tuple[CodecSpec, ...]
    compared_every: int
    dithered_bits: float | None
    failure: float
    query_bands: tuple[QueryBand, ...]
    seed: int

    @classmethod
    def of(cls, run: Run, layer: str) -> CertifyLayer:
        return cls.taken(
            run,
            layer=layer,
            compared=_compared(run),
            seed=run.config.sketch.seed,
            uses=modules([run.config.frontier.headline.codec]),
        )


def _compared(run: Run) -> tuple[CodecSpec, ...]:
    """The headline codec at its headline size and at its largest."""
    headline = run.headline_spec()
    own = [spec for spec in run.codecs if spec.name == headline.name]
    return tuple(spec for spec in own if spec in (headline, max(own)))


@dataclass(frozen=True)
class GatherCertificates(Job):
    """All layers."""

    call = "ghostkv.stages.certificates.gather.gather"
    tables = tuple(SCHEMAS)
