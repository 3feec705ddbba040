"""Peers: every selector of a layer at the same bytes, in every column, on held-out texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.captures.captured_texts import (
    CapturedText,
    by_role,
    from_position,
    measured_texts,
    sketch_metadata,
)
from ghostkv.codecs.records import CodecSpec
from ghostkv.files.buffers import Space
from ghostkv.files.progress import progress
from ghostkv.files.tables import Tables
from ghostkv.selectors import make
from ghostkv.selectors.base import ALONE, Calibration, Selector, Spending
from ghostkv.selectors.columns import OneBudget, rank, selections
from ghostkv.selectors.evaluate import evaluate
from ghostkv.selectors.scenes import ThresholdScenes, budget_of, calibration_of, for_selector, view
from ghostkv.stages.peers.caches import WHOLE, measure_caches
from ghostkv.stages.peers.choice import KIND, OURS, SizeChoice, chosen
from ghostkv.stages.peers.records import TextRecords
from ghostkv.stages.peers.schemas import LAYER_SCHEMAS
from ghostkv.stages.peers.tables import head_rows, layer_rows

if TYPE_CHECKING:
    from ghostkv.stages.peers.jobs import PeersLayer

# Selectors hold every pair of a text's queries and keys, so that threshold texts of more queries than this are thinned, where
# held-out ones have fewer.
_QUERIES = 256


def measure_layer(job: PeersLayer, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Measure every selector of one layer on held-out texts.

    Raises
    ------
    ConfigError
        A role has no text, no query lies at or beyond `headline_start`, or a selector is misconfigured.
    """
    texts = job.captures
    loaded = {text: read_layer(text.folder, job.layer) for text in texts}
    roles = by_role(texts, "codec", "threshold", "held_out")
    most = max(_QUERIES, *(len(loaded[text].positions) for text in roles["held_out"]))
    for text in roles["threshold"]:
        loaded[text] = loaded[text].at(slice(None, None, -(-len(loaded[text].positions) // most)))
    for text in measured_texts(texts):
        from_position(loaded[text], text, job.headline_start)  # raises where none lies there
    layer = _PeersAtWork(job, loaded, roles, TextRecords(loaded, roles["codec"], inputs, job))
    layer.calibrate()
    tables = Tables(LAYER_SCHEMAS)
    layer.measure(tables)
    tables.add_rows("choice", layer.choice.rows(job.layer, loaded[texts[0]].kv_numbers))
    tables.write(outputs, sketch_metadata(texts, job.code))


@dataclass
class _PeersAtWork:
    """One layer's selectors at work."""

    job: PeersLayer
    loaded: Mapping[CapturedText, LayerCapture]
    roles: Mapping[str, Sequence[CapturedText]]
    ghosts: TextRecords
    space: Space = field(default_factory=Space)

    def __post_init__(self) -> None:
        self.selectors = [make(entry) for entry in self.job.selectors]
        self.exact = {name: getattr(self.job, name) for name in ("sinks", "hot", "top_k", "headline_start")}
        self.choice = SizeChoice(self.job.ratios)
        self.fitted: list[list[Any]] = []  # by KV head, of each selector
        self.spending: dict[Selector, Mapping[int, Spending]] = {}
        self._some = next(iter(self.loaded.values()))

    def calibrate(self) -> None:
        """Fit every selector, its share of the one budget, and the size of our record, on codec and threshold texts."""
        budgets: dict[Selector, OneBudget] = {}
        for kv_head in self._kv_heads("calibrated"):
            calibration = self._calibration(kv_head)
            self.fitted.append([selector.fit(calibration) for _, selector in self.selectors])
            for _, scene, truth, budget in self._scenes("threshold", kv_head):
                for (_, selector), fitted in zip(self.selectors, self.fitted[-1], strict=True):
                    if selector.columns != (ALONE,) and type(selector).estimate is not Selector.estimate:
                        seen = for_selector(selector, scene, truth)
                        one = budgets.setdefault(selector, OneBudget(self.job.ratios))
                        one.add(kv_head, rank(selector, fitted, seen), seen, budget)
        self.spending = {selector: budget.spending() for selector, budget in budgets.items()}
        for kv_head in range(len(self.fitted)):
            for _, scene, truth, budget in self._scenes("threshold", kv_head):
                for _, selector, column, queries, _ in self._measured(
                    kv_head, scene, truth, budget, "record"
                ):
                    self.choice.add(kv_head, column, selector, queries)

    def measure(self, tables: Tables) -> None:
        """Rows of every selector and column on held-out texts."""
        found: dict[tuple, list] = {}
        for kv_head in self._kv_heads("measured"):
            for text, scene, truth, budget in self._scenes("held_out", kv_head):
                records: dict[str, dict[Selector, tuple]] = {}
                for name, selector, column, *measured in self._measured(kv_head, scene, truth, budget):
                    who = name, selector.variant, selector.kind, column
                    self._add(tables, found, text, kv_head, who, *measured)
                    if selector.kind == "record":
                        records.setdefault(column, {})[selector] = measured
                whole = measure_caches(self.job.caches, scene, truth, budget)
                for name, *measured in whole:
                    self._add(tables, found, text, kv_head, (name, WHOLE, "peer", ALONE), *measured)
                for column, sizes in records.items():
                    ours = chosen(self.choice.ranked(kv_head, column), sizes)
                    self._add(tables, found, text, kv_head, (OURS, "", KIND, column), *ours)
        for (text, *who), groups in found.items():
            about = self._about(text, who) | {"heads": self._some.heads}
            tables.add_rows("layers", layer_rows(about, groups, self.job.ratios))

    def _measured(self, kv_head, scene, truth, budget, kind: str = "") -> Iterator[tuple]:
        """Name, selector, column, queries and feasibility of all selectors, or of those of a kind."""
        for (name, selector), fitted in zip(self.selectors, self.fitted[kv_head], strict=True):
            if kind not in ("", selector.kind):
                continue
            seen = for_selector(selector, scene, truth)
            constant = np.array(selector.constant_bytes(fitted, scene) / budget.full)
            spending = self.spending.get(selector, {}).get(kv_head)
            for column, selection in selections(selector, fitted, seen, budget, spending):
                queries = evaluate(selection, seen, truth, budget)
                queries["constant_ratio"] = np.broadcast_to(constant, queries["fer"].shape)
                yield name, selector, column, queries, selection.feasible

    def _add(self, tables, found, text, kv_head, who, queries, feasible) -> None:
        capture = self.loaded[text]
        about = self._about(text, who) | {"kv_head": capture.kv_numbers[kv_head]}
        tables.add_rows(
            "peers", head_rows(about, capture.heads_of(kv_head), queries, self.job.ratios, feasible)
        )
        found.setdefault((text, *who), []).append((queries, feasible))

    def _about(self, text: CapturedText, who: Sequence[str]) -> dict[str, Any]:
        named = dict(zip(("selector", "variant", "kind", "column"), who, strict=True))
        return {"layer": self.job.layer, "text": text.text, "domain": text.domain} | named

    def _scenes(self, role: str, kv_head: int) -> Iterator[tuple]:
        for text in self.roles[role]:
            capture = self.loaded[text]
            scene, truth = view(capture, kv_head, self.exact, self._records(text, kv_head), self.space)
            yield text, scene, truth, budget_of(capture, scene.visible, self.job.ratios)

    def _records(self, text: CapturedText, kv_head: int):
        return lambda name, size: self.ghosts.of(text, kv_head, CodecSpec(name, size))

    def _calibration(self, kv_head: int) -> Calibration:
        texts = [(self.loaded[text], self._records(text, kv_head)) for text in self.roles["threshold"]]
        scenes = ThresholdScenes(texts, kv_head, self.exact, self.job.ratios, self.space)
        return calibration_of([self.loaded[text] for text in self.roles["codec"]], scenes, self.job.seed)

    def _kv_heads(self, done: str) -> Iterator[int]:
        heads = range(self._some.kv_heads)
        yield from progress(heads, desc=f"layer {self.job.layer} {done}", unit="KV head")
