"""What the jobs of `synthetic` depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghostkv.codecs.by_name import modules
from ghostkv.codecs.records import CodecSpec
from ghostkv.codecs.sizes import code_bytes
from ghostkv.config.base import GridEntry, losses
from ghostkv.config.frontier import Safe
from ghostkv.config.synthetic import AuditEntry, DecodeEntry, TradeoffEntry
from ghostkv.files.jobs import Job
from ghostkv.stages.synthetic.schemas import SCHEMAS
from ghostkv.stages.synthetic.summary_schemas import SUMMARY_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


@dataclass(frozen=True)
class MeasureGenerator(Job):
    """One generator, and what is measured of it.

    Attributes
    ----------
    label : str
        Name of the generator in tables and paths.
    generator : dict
        Its entry in the config.
    headline : CodecSpec
        The design of trade-off and decode, with its rule and the rule's grid of thetas.
    codecs : tuple of CodecSpec
        All that are compared, the headline among them.
    """

    call = "ghostkv.stages.synthetic.generator.measure_generator"
    tables = tuple(SCHEMAS)
    sections = ("frontier", "synthetic")

    label: str
    generator: dict[str, Any]
    seed: int
    tokens: int
    head_dim: int
    group: int
    spread: float
    codecs: tuple[CodecSpec, ...]
    headline: CodecSpec
    rule: str
    grid: GridEntry
    sinks: int
    hot: int
    top_k: int
    targets: dict[str, tuple[float, ...]]
    safe: Safe
    top: tuple[int, ...]
    audit: AuditEntry
    tradeoff: TradeoffEntry
    decode: DecodeEntry

    @classmethod
    def of(cls, run: Run, generator: str) -> MeasureGenerator:
        frontier, synthetic = run.config.frontier, run.config.synthetic
        headline = run.headline_spec(synthetic.head_dim)
        codecs = [
            CodecSpec(codec.name, code_bytes(bits, synthetic.head_dim))
            for codec in synthetic.codecs
            for bits in codec.bits
        ]
        if headline not in codecs:
            codecs.append(headline)
        return cls.taken(
            run,
            label=generator,
            generator=synthetic.labels()[generator],
            codecs=codecs,
            headline=headline,
            rule=frontier.headline.rule,
            grid=frontier.grids()[frontier.headline.rule],
            targets=losses(frontier.targets),
            uses=modules(codec.name for codec in codecs),
        )


@dataclass(frozen=True)
class GatherSynthetic(Job):
    """All generators."""

    call = "ghostkv.stages.synthetic.gather.gather"
    tables = (*SCHEMAS, *SUMMARY_SCHEMAS)
