"""One KV head in the stage `calibrated`: every design, rule, goal and decision, and the rows they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs import Codec, Records
from ghostkv.elimination.frontier import Design, Setting
from ghostkv.elimination.grid import Grid
from ghostkv.elimination.summaries import bound_columns
from ghostkv.elimination.text_view import TextEstimates, TextView
from ghostkv.files.tables import Tables
from ghostkv.stages.calibrated.conformal import (
    CalibratedThresholds,
    Goal,
    calibrate,
    floor,
    goals,
    plug_in,
    shifts,
)
from ghostkv.stages.calibrated.promises import Promises
from ghostkv.stages.calibrated.rows import (
    ByText,
    Curves,
    at,
    choice_columns,
    domains_of,
    group_curves,
    head_curves,
    held_out,
    point_columns,
    queries_at,
    risks_of,
    text_columns,
    text_keys,
    thetas,
)

if TYPE_CHECKING:
    from ghostkv.stages.calibrated.jobs import CalibrateLayer

# Common shifts of a group's thresholds: in margins, in nats, in score units.
_SHIFTS = {
    "relative_topk": Grid.of(shifts(0.02, 50)),
    "relative_lse": Grid.of(shifts(0.05, 60)),
    "absolute": Grid.of(shifts(0.1, 60)),
}
_Found = Sequence[CalibratedThresholds]


@dataclass(frozen=True)
class CalibratedGroup:
    """One KV head on all measured texts, and where its rows go."""

    tables: Tables
    kv_head: int
    views: Mapping[CapturedText, TextView]  # headline queries
    loaded: Mapping[CapturedText, LayerCapture]  # all queries
    setting: Setting
    job: CalibrateLayer

    def measure(self, design: Design, records: Mapping[CapturedText, Records], headline: bool) -> None:
        """Every rule and goal of one design; the headline design in all its aspects."""
        estimates = {text: view.estimate(design, records[text]) for text, view in self.views.items()}
        early = self._early(design, records) if headline else {}
        page = self.job.page if headline else None
        for rule in self.setting.grids:
            keys = self._keys(design) | {"rule": rule}
            curves = {text: head_curves(known, rule, page) for text, known in estimates.items()}
            found = self._calibrate(curves)
            if found:
                self._add_points(keys | {"decision": "head"}, design, curves, found)
                self._add_texts(keys, curves, found)
            if headline and found:
                self._add_bands(keys, design, curves, found)
                before = {text: head_curves(known, rule, page) for text, known in early.items()}
                self._add_bands(keys, design, before, found)
            if headline:
                promises = Promises(self.tables, keys, self._heads(), curves, self.job)
                promises.measure(design)
                self._add_cross_domain(keys, curves, promises)
                self._add_shared(keys, design, curves)

    def compare(self, derived: Codec, trained: Codec, losses: np.ndarray) -> None:
        """The trained codec beside the derived one: soundness of both, and the trained one's points."""
        about = {"loss_first": losses[0], "loss_last": losses[-1], "steps": len(losses)}
        self._add_bounds(derived, {"steps": 0})
        estimates = self._add_bounds(trained, about)
        design = Design(trained.name, trained.code_bytes, trained)
        for rule in self.setting.grids:
            curves = {text: head_curves(known, rule, None) for text, known in estimates.items()}
            keys = self._keys(design) | {"rule": rule, "decision": "head"}
            self._add_points(keys, design, curves, self._calibrate(curves))

    def _add_bounds(self, codec: Codec, about: Mapping) -> dict[CapturedText, TextEstimates]:
        design, estimates = Design(codec.name, codec.code_bytes, codec), {}
        for text, view in self.views.items():
            estimates[text] = view.estimate(design, codec.encode(view.capture.keys[self.kv_head]))
            named = self._keys(design) | {"text": text.text, "domain": text.domain}
            self.tables.add("learned", named | about, bound_columns(estimates[text].errors()))
        return estimates

    def _calibrate(self, curves: ByText) -> list[CalibratedThresholds]:
        risks = next(iter(curves.values())).risks
        kinds = [name.removeprefix("output_error_") for name in risks if name.startswith("output_error_")]
        return [
            calibrate(risks_of(curves, goal, "threshold"), goal) for goal in goals(self.job.targets, kinds)
        ]

    def _keys(self, design: Design) -> dict:
        return {
            "layer": self.job.layer,
            "kv_head": self._capture.kv_numbers[self.kv_head],
            "codec": design.name,
            "code_bytes": design.code_bytes,
            "record_bytes": design.record_bytes,
        }

    def _heads(self) -> np.ndarray:
        return self._capture.heads_of(self.kv_head)

    @property
    def _capture(self) -> LayerCapture:
        return next(iter(self.loaded.values()))

    def _add_points(
        self, keys: Mapping, design: Design, curves: ByText, found: _Found, shared: bool = False
    ) -> None:
        for text, one in held_out(curves):
            queries = queries_at(one, design, found, self.job.page, shared)
            columns = point_columns(one, queries) | choice_columns(found, self._heads(), one.grid)
            self.tables.add("calibrated", {**keys, **text_keys(text, one)}, columns)

    def _add_texts(self, keys: Mapping, curves: ByText, found: _Found) -> None:
        """What each text by itself says of the risk: queries of one text are no independent sample."""
        for text, one in curves.items():
            named = choice_columns(found, self._heads(), one.grid)
            columns = {name: named[name] for name in ("head", "target_metric", "compensation", "target")}
            about = text_keys(text, one) | {"role": text.role}
            self.tables.add("texts", {**keys, **about}, columns | text_columns(one, found))

    def _add_bands(self, keys: Mapping, design: Design, curves: ByText, found: _Found) -> None:
        """Held-out points by the queries' position."""
        for text, one in held_out(curves):
            positions = one.view.capture.positions
            queries = queries_at(one, design, found, self.job.page)
            named = choice_columns(found, self._heads(), one.grid)
            edges = self.job.bands
            for start, stop in zip(edges, edges[1:], strict=False):
                inside = (positions >= start) & (positions < stop)
                if inside.any():
                    about = text_keys(text, one) | {"queries": int(inside.sum())}
                    about |= {"band_start": start, "band_stop": stop}
                    about["cold_keys"] = float(one.view.visible.cold[inside].mean())
                    self.tables.add("bands", {**keys, **about}, point_columns(one, queries, inside) | named)

    def _early(
        self, design: Design, records: Mapping[CapturedText, Records]
    ) -> dict[CapturedText, TextEstimates]:
        """Held-out queries before the headline ones, on no more keys than they see."""
        start = max(self.job.bands[0], self.setting.sinks + self.setting.hot)
        stop = self.job.headline_start
        found = {}
        for text, capture in self.loaded.items():
            wanted = (capture.positions >= start) & (capture.positions < stop)
            if text.role == "held_out" and wanted.any():
                view = TextView.of(capture.at(wanted, stop), self.kv_head, self.setting, True)
                found[text] = view.estimate(design, records[text][:stop])
        return found

    def _add_cross_domain(self, keys: Mapping, curves: ByText, promises: Promises) -> None:
        """Thresholds of each domain's threshold texts, tested on each domain's held-out texts."""
        domains = {role: domains_of(curves, role) for role in ("threshold", "held_out")}
        for goal in goals(self.job.cross_domain):
            promises.watch(calibrate(risks_of(curves, goal, "threshold"), goal), "all")
            for source in domains["threshold"]:
                risks = risks_of(curves, goal, "threshold", source)
                conformal = goal.target >= floor(sum(risk.shape[1] for risk in risks))
                found = calibrate(risks, goal) if conformal else plug_in(risks, goal)
                about = {"method": "conformal" if conformal else "plug_in", "calibrated_on": source}
                promises.watch(found, source)
                for tested in domains["held_out"]:
                    # Queries of another domain are not exchangeable with those of this one.
                    promised = replace(
                        found,
                        guaranteed_if_exchangeable=found.guaranteed_if_exchangeable and tested == source,
                    )
                    self._add_tested({**keys, **about, "tested_on": tested}, curves, promised)

    def _add_tested(self, keys: Mapping, curves: ByText, found: CalibratedThresholds) -> None:
        index = found.index[:, None]
        parts = [one for text, one in held_out(curves) if text.domain == keys["tested_on"]]
        columns = choice_columns([found], self._heads(), parts[0].grid)
        measured = {
            "achieved": [at(one.risks[found.goal.risk], index) for one in parts],
            "elimination": [at(one.swept.rates["elimination"], index) for one in parts],
        }
        columns |= {name: np.concatenate(values, axis=1).mean(axis=1) for name, values in measured.items()}
        queries = sum(len(one.view.capture.positions) for one in parts)
        self.tables.add("cross_domain", {**keys, "queries": queries}, columns)

    def _add_shared(self, keys: Mapping, design: Design, curves: ByText) -> None:
        """What a group takes together, beside its heads' own decisions."""
        group = len(self._heads())
        wanted = goals(self.job.group)
        if not wanted:
            return
        plain = self._shared(curves, np.zeros(group), next(iter(curves.values())).grid)
        found = [calibrate(risks_of(plain, goal, "threshold"), goal, shared=True) for goal in wanted]
        self._add_points({**keys, "decision": "group"}, design, plain, found, shared=True)
        for goal in wanted:
            self._add_shifted(keys, design, curves, goal)

    def _add_shifted(self, keys: Mapping, design: Design, curves: ByText, goal: Goal) -> None:
        """A group that reads what any head's own threshold keeps, as it is and with one shift for all heads."""
        own, grid = next(iter(curves.values())).grid, _SHIFTS[keys["rule"]]
        each = calibrate(risks_of(curves, goal, "threshold"), goal)
        offset = thetas(own, each.index)
        # A head that must keep everything makes its group read everything.
        possible = np.isfinite(offset).all()
        moved = self._shared(curves, offset if possible else np.zeros_like(offset), grid)
        unmoved = int(np.searchsorted(grid.theta, np.float32(0))) if possible else -1
        united = replace(each, index=np.full_like(each.index, unmoved))
        self._add_points({**keys, "decision": "united"}, design, moved, [united], shared=True)
        # The offsets come from the very queries that calibrate the shift, so nothing is promised.
        shift = replace(
            calibrate(risks_of(moved, goal, "threshold"), goal, shared=True), guaranteed_if_exchangeable=False
        )
        if not possible:
            shift = replace(shift, index=united.index)
        self._add_points({**keys, "decision": "group_offset"}, design, moved, [shift], shared=True)

    def _shared(self, curves: ByText, offset: np.ndarray, grid: Grid) -> dict[CapturedText, Curves]:
        return {text: group_curves(one, offset, grid) for text, one in curves.items()}
