"""Every codec and rule of one layer swept, thresholds chosen, and what they do measured on held-out text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.captures.captured_texts import CapturedText, from_position, measured_texts, sketch_metadata
from ghostkv.codecs import Records
from ghostkv.codecs.records import load_codecs, read_records
from ghostkv.elimination.frontier import (
    Choice,
    Design,
    Setting,
    choices,
)
from ghostkv.elimination.grid import Grid
from ghostkv.elimination.summaries import bound_columns, point_queries, summarise, sweep_columns
from ghostkv.elimination.text_view import TextSweep, TextView, sweep_text
from ghostkv.files.progress import progress
from ghostkv.files.tables import Tables
from ghostkv.stages.frontier.schemas import LAYER_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.frontier.jobs import SweepLayer

# One theta of the grid in so many goes into sweep.parquet; thresholds are chosen on the full grid.
_SWEEP_EVERY = 4
# Designs that go through a block of a long text together.
_TOGETHER = 6
ORACLE = Design("exact", 0, None)


def sweep_layer(job: SweepLayer, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Sweep every codec and threshold rule of one layer on threshold and held-out texts.

    Raises
    ------
    ConfigError
        No text has the role `threshold` or `held_out`, or no query lies at or beyond `headline_start`.
    """
    fitted = load_codecs(inputs["codecs"], job.codecs)
    setting = Setting.of(job.sinks, job.hot, job.top_k, job.grids)
    measured = measured_texts(job.captures)
    loaded = {text: read_layer(text.folder, job.layer) for text in measured}
    records = {text: read_records(inputs["records"], text.text, job.codecs) for text in measured}
    tables = Tables(LAYER_SCHEMAS)
    for kv_head in progress(range(loaded[measured[0]].kv_heads), desc=f"layer {job.layer}", unit="KV head"):
        views = {
            text: TextView.of(
                from_position(capture, text, job.headline_start),
                kv_head,
                setting,
                text.role == "held_out",
            )
            for text, capture in loaded.items()
        }
        group = _Group(tables, kv_head, views, loaded, setting, job)
        designs = [(ORACLE, {text: None for text in measured})]
        for spec in job.codecs:
            design = Design(spec.name, spec.code_bytes, fitted[spec, kv_head])
            designs.append((design, {text: records[text][spec][kv_head] for text in measured}))
        group.sweep_all(designs)
        number = loaded[measured[0]].kv_numbers[kv_head]
        print(
            f"layer {job.layer}: KV head {number} swept, {len(job.codecs)} codecs and the oracle", flush=True
        )
    tables.write(outputs, sketch_metadata(job.captures, job.code))


@dataclass(frozen=True)
class _Group:
    """One KV head on all measured texts, and where its rows go."""

    tables: Tables
    kv_head: int
    views: Mapping[CapturedText, TextView]  # headline queries
    loaded: Mapping[CapturedText, LayerCapture]  # all queries
    setting: Setting
    job: SweepLayer
    all_positions: dict[CapturedText, TextView] = field(default_factory=dict)

    def sweep_all(self, designs: Sequence[tuple[Design, Mapping[CapturedText, Records | None]]]) -> None:
        """Every design; several at once where a text has several blocks, so that each is made fewer times."""
        together = _TOGETHER if any(view.whole is None for view in self.views.values()) else 1
        rules = list(self.setting.grids)
        for first in range(0, len(designs), together):
            some = designs[first : first + together]
            swept = {
                text: sweep_text([view.estimate(design, records[text]) for design, records in some], rules)
                for text, view in self.views.items()
            }
            for number, (design, records) in enumerate(some):
                self._add(design, records, {text: found[number] for text, found in swept.items()})

    def _add(
        self,
        design: Design,
        records: Mapping[CapturedText, Records | None],
        found_by_text: Mapping[CapturedText, tuple],
    ) -> None:
        """Rows of one design: sweep rows, chosen points, context bands, soundness of the margins."""
        keys = {
            "layer": self.job.layer,
            "kv_head": self._capture.kv_numbers[self.kv_head],
            "codec": design.name,
            "code_bytes": design.code_bytes,
            "record_bytes": design.record_bytes,
        }
        for text, (_, errors) in found_by_text.items():
            if design is not ORACLE:
                named = keys | {"text": text.text, "domain": text.domain}
                self.tables.add("bounds", named, bound_columns(errors))
        for rule, grid in self.setting.grids.items():
            swept = {text: rules[rule] for text, (rules, _) in found_by_text.items()}
            for text, one in swept.items():
                self._add_sweep(keys | {"rule": rule}, text, one, design, grid)
            by_role = {
                role: [one for text, one in swept.items() if text.role == role]
                for role in ("threshold", "held_out")
            }
            found = choices(*by_role.values(), self.job.targets, self.job.safe)
            for text, one in swept.items():
                if text.role == "held_out":
                    self._add_points(keys | {"rule": rule}, text, one, design, found, grid)
            if rule == self.job.rule and (design is ORACLE or self._is_headline(design)):
                self._add_bands(keys | {"rule": rule}, design, records, found, grid)

    def _is_headline(self, design: Design) -> bool:
        return (design.name, design.code_bytes) == (self.job.headline.name, self.job.headline.code_bytes)

    def _heads(self) -> np.ndarray:
        return self._capture.heads_of(self.kv_head)

    @property
    def _capture(self) -> LayerCapture:
        return next(iter(self.loaded.values()))

    def _add_sweep(
        self, keys: Mapping, text: CapturedText, swept: TextSweep, design: Design, grid: Grid
    ) -> None:
        every = slice(None, None, _SWEEP_EVERY)
        columns = sweep_columns(self.views[text], swept, design, every)
        thetas, heads = grid.theta[every], self._heads()
        columns["head"] = np.repeat(heads, len(thetas))
        columns["theta"] = np.tile(thetas, len(heads))
        self.tables.add("sweep", {**keys, **_about(text, swept)}, columns)

    def _add_points(
        self,
        keys: Mapping,
        text: CapturedText,
        swept: TextSweep,
        design: Design,
        found: Sequence[Choice],
        grid: Grid,
    ) -> None:
        index = np.stack([choice.index for choice in found], axis=1)
        # Nobody can choose a threshold in hindsight, so its traffic is not worth the union over heads.
        united = ["hindsight" not in choice.method for choice in found]
        view = self.views[text]
        columns = summarise(view, point_queries(view, swept, design, index, grid, united))
        named = _choice_columns(found, index, self._heads(), grid)
        self.tables.add("points", {**keys, **_about(text, swept)}, columns | named)

    def _add_bands(
        self,
        keys: Mapping,
        design: Design,
        records: Mapping[CapturedText, Records | None],
        found: Sequence[Choice],
        grid: Grid,
    ) -> None:
        """The calibrated points again, on queries at every position, by band."""
        found = [choice for choice in found if choice.method == "calibrated"]
        index = np.stack([choice.index for choice in found], axis=1)
        for text, capture in self.loaded.items():
            if text.role != "held_out":
                continue
            cold = from_position(capture, text, self.setting.sinks + self.setting.hot)
            if text not in self.all_positions:
                self.all_positions[text] = TextView.of(cold, self.kv_head, self.setting, True)
            view = self.all_positions[text]
            ((rules, _),) = sweep_text([view.estimate(design, records[text])], [keys["rule"]])
            swept = rules[keys["rule"]]
            queries = point_queries(view, swept, design, index, grid, [True] * len(found))
            named = _choice_columns(found, index, self._heads(), grid)
            named.pop("method")
            for band in self.job.query_bands:
                inside = (cold.positions >= band.start) & (cold.positions < band.stop)
                if inside.any():
                    about = {
                        "band_start": band.start,
                        "band_stop": band.stop,
                        "cold_keys": float(view.visible.cold[inside].mean()),
                    }
                    about |= {**keys, **_about(text, swept), "queries": int(inside.sum())}
                    self.tables.add("context", about, summarise(view, queries, inside) | named)


def _choice_columns(found: Sequence[Choice], index: np.ndarray, heads: np.ndarray, grid: Grid) -> dict:
    """Columns that name each (head, choice), flattened like arrays of shape [group, choices]."""
    theta = np.where(index >= 0, grid.theta[np.maximum(index, 0)], np.nan)
    per_choice = {"target_metric": "metric", "target": "target", "method": "method"}
    named = {
        column: np.tile(np.array([getattr(choice, name) for choice in found]), len(heads))
        for column, name in per_choice.items()
    }
    return named | {"theta": theta, "head": np.repeat(heads, len(found))}


def _about(text: CapturedText, swept: TextSweep) -> dict[str, str | int]:
    queries = swept.counts.mass.shape[1]
    return {"text": text.text, "domain": text.domain, "role": text.role, "queries": queries}
