"""Synthetic: generated tensors through the lab's own codecs, sweeps and rules, beside what must come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ghostkv.captures.generated import Shape
from ghostkv.captures.generators import make
from ghostkv.codecs.records import CodecSpec, specs
from ghostkv.elimination.frontier import Setting
from ghostkv.elimination.sweep import Grid
from ghostkv.files import provenance
from ghostkv.files.errors import ConfigError
from ghostkv.files.io import stable_seed
from ghostkv.files.logs import progress
from ghostkv.files.tables import Tables
from ghostkv.stages.synthetic.audit import Audit
from ghostkv.stages.synthetic.tables import (
    SCHEMAS,
)
from ghostkv.stages.synthetic.tradeoff import Rule, SyntheticDecode, Tradeoff


def measure_generator(params: Mapping[str, Any], outputs: Mapping[str, str]) -> None:
    """Audit, trade-off, context sweep and decode of one generator.

    Parameters
    ----------
    params : mapping
        The config section `synthetic`; `generator`, its entry in the config, and `label`, its name; `frontier` with
        `sinks`, `hot`, `top_k`, `rules`, `targets`, `safe` and `headline`; `code`.
    outputs : mapping
        Paths of `audit`, `sweep`, `points` and `decode`.

    Raises
    ------
    ConfigError
        A context is too short to have cold keys.
    """
    study = _Study(params)
    study.check()
    for experiment in progress(
        (study.audit, study.tradeoff, study.decode), desc=params["label"], unit="experiment"
    ):
        experiment()
        print(f"{params['label']}: {experiment.__name__} done", flush=True)
    metadata = provenance.metadata(params.get("code"), generator=params["generator"], seed=params["seed"])
    study.tables.write(outputs, metadata)


@dataclass
class _Study:
    """One generator under the config, and its rows as they come."""

    params: Mapping[str, Any]
    tables: Tables = field(default_factory=lambda: Tables(SCHEMAS))

    def __post_init__(self):
        params, frontier = self.params, self.params["frontier"]
        common = {"spread": float(params["spread"]), "span": int(params["tokens"])}
        self.generator = make(params["generator"], **common)
        self.shape = Shape(params["tokens"], params["group"], params["head_dim"])
        grid = frontier["rules"][frontier["headline"]["rule"]]
        grids = {
            frontier["headline"]["rule"]: Grid.of(np.linspace(grid["start"], grid["stop"], grid["count"]))
        }
        self.setting = Setting(frontier["sinks"], frontier["hot"], frontier["top_k"], grids)
        self.rule = Rule(frontier["headline"]["rule"], self.setting, frontier["targets"], frontier["safe"])
        self.headline = CodecSpec(frontier["headline"]["codec"], frontier["headline"]["bytes"])
        chosen = specs(params["codecs"])
        self.chosen = chosen if self.headline in chosen else [*chosen, self.headline]

    def check(self) -> None:
        """Refuse contexts without cold keys."""
        params, least = self.params, 2 * (self.setting.sinks + self.setting.hot) + self.setting.top_k
        lengths = {
            "tokens": params["tokens"],
            "tradeoff.contexts": min(params["tradeoff"]["contexts"]),
            "decode.start": params["decode"]["start"],
        }
        for key, tokens in lengths.items():
            if tokens < 2 * least:
                raise ConfigError(
                    f"config: synthetic.{key} is {tokens}, but queries of its second half must see cold keys: "
                    f"frontier.sinks, hot and top_k ask for {2 * least} tokens. Accepted: {2 * least} or more.\n"
                    f"  Write: {key.split('.')[-1]}: {2 * least}   (or less frontier.hot)"
                )

    def seed(self, *parts: object) -> int:
        return stable_seed(self.params["seed"], self.params["label"], *parts)

    def audit(self) -> None:
        options = self.params["audit"]
        for draw in range(options["draws"]):
            one = Audit(
                self.generator, self.seed("audit", draw), self.shape, options["queries"], self.setting,
                self.params["top"],
            )  # fmt: skip
            for row in one.rows(self.chosen):
                self.add("audit", {**row, "draw": draw}, {})

    def tradeoff(self) -> None:
        """Every codec at the context of the audit; at all contexts the headline codec at every size."""
        options, own = self.params["tradeoff"], self.params["tokens"]
        for draw in range(options["draws"]):
            one = Tradeoff(
                self.generator, self.seed("tradeoff", draw), self.shape, options["queries"], self.rule
            )
            designs = one.designs(self.chosen)
            same = [design for design in designs if design.name in ("exact", self.headline.name)]
            for tokens in sorted({*options["contexts"], own}):
                for table, keys, columns in one.rows(
                    designs if tokens == own else same, tokens, tokens == own
                ):
                    self.add(table, {**keys, "draw": draw}, columns)

    def decode(self) -> None:
        options, target = self.params["decode"], min(self.params["frontier"]["targets"]["fer"])
        for draw in range(options["draws"]):
            one = SyntheticDecode(
                self.generator, self.seed("decode", draw), Shape(options["start"], *self._widths()), self.rule,
                options["steps"], options["ask_every"], options["masses"],
            )  # fmt: skip
            keys = {
                "codec": self.headline.name, "code_bytes": self.headline.code_bytes, "rule": self.rule.name,
                "record_bytes": self.headline.code_bytes + 1, "target": target, "draw": draw,
            }  # fmt: skip
            for columns in one.columns(self.headline, target):
                self.add("decode", keys, columns)

    def _widths(self) -> tuple[int, int]:
        return self.shape.group, self.shape.width

    def add(self, table: str, keys: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> None:
        self.tables.add(table, {**keys, "generator": self.params["label"]}, columns)
