"""Synthetic: generated tensors through the lab's own codecs, sweeps and rules, beside what must come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostkv.captures.generated import Shape
from ghostkv.captures.generators import make
from ghostkv.elimination.frontier import Setting
from ghostkv.files import provenance
from ghostkv.files.io import stable_seed
from ghostkv.files.progress import progress
from ghostkv.files.tables import Tables
from ghostkv.stages.synthetic.audit import Audit
from ghostkv.stages.synthetic.schemas import SCHEMAS
from ghostkv.stages.synthetic.tradeoff import Rule, SyntheticDecode, Tradeoff

if TYPE_CHECKING:
    from ghostkv.stages.synthetic.jobs import MeasureGenerator


def measure_generator(job: MeasureGenerator, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Audit, trade-off, context sweep and decode of one generator."""
    study = _Study(job)
    for experiment in progress(
        (study.audit, study.tradeoff, study.decode), desc=job.label, unit="experiment"
    ):
        experiment()
        print(f"{job.label}: {experiment.__name__} done", flush=True)
    metadata = provenance.metadata(job.code, generator=job.generator, seed=job.seed)
    study.tables.write(outputs, metadata)


@dataclass
class _Study:
    """One generator under the config, and its rows as they come."""

    job: MeasureGenerator
    tables: Tables = field(default_factory=lambda: Tables(SCHEMAS))

    def __post_init__(self):
        job = self.job
        self.generator = make(job.generator, spread=job.spread, span=job.tokens)
        self.shape = Shape(job.tokens, job.group, job.head_dim)
        self.setting = Setting.of(job.sinks, job.hot, job.top_k, {job.rule: job.grid})
        self.rule = Rule(job.rule, self.setting, job.targets, job.safe)

    def seed(self, *parts: object) -> int:
        return stable_seed(self.job.seed, self.job.label, *parts)

    def audit(self) -> None:
        options = self.job.audit
        for draw in range(options.draws):
            one = Audit(
                self.generator, self.seed("audit", draw), self.shape, options.queries, self.setting,
                self.job.top,
            )  # fmt: skip
            for row in one.rows(self.job.codecs):
                self.add("audit", {**row, "draw": draw}, {})

    def tradeoff(self) -> None:
        """Every codec at the context of the audit; at all contexts the headline codec at every size."""
        options, own = self.job.tradeoff, self.job.tokens
        for draw in range(options.draws):
            one = Tradeoff(
                self.generator, self.seed("tradeoff", draw), self.shape, options.queries, self.rule
            )
            designs = one.designs(self.job.codecs)
            same = [design for design in designs if design.name in ("exact", self.job.headline.name)]
            for tokens in sorted({*options.contexts, own}):
                for table, keys, columns in one.rows(
                    designs if tokens == own else same, tokens, tokens == own
                ):
                    self.add(table, {**keys, "draw": draw}, columns)

    def decode(self) -> None:
        options, target = self.job.decode, min(self.job.targets["fer"])
        for draw in range(options.draws):
            one = SyntheticDecode(
                self.generator, self.seed("decode", draw), replace(self.shape, tokens=options.start), self.rule,
                options.steps, options.ask_every, options.masses,
            )  # fmt: skip
            keys = {
                "codec": self.job.headline.name, "code_bytes": self.job.headline.code_bytes, "rule": self.rule.name,
                "record_bytes": self.job.headline.code_bytes + 1, "target": target, "draw": draw,
            }  # fmt: skip
            for columns in one.columns(self.job.headline, target):
                self.add("decode", keys, columns)

    def add(self, table: str, keys: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> None:
        self.tables.add(table, {**keys, "generator": self.job.label}, columns)
