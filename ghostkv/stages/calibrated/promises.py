"""What thresholds of one KV head promise with high probability, on resampled texts, and to a monitor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.elimination.frontier import Design
from ghostkv.files.io import stable_seed
from ghostkv.files.tables import Tables
from ghostkv.stages.calibrated.conformal import (
    CONTROLLED,
    CalibratedThresholds,
    Goal,
    calibrate,
    goals,
    plug_in,
)
from ghostkv.stages.calibrated.high_probability import CONFORMAL, METHODS, calibrate_surely
from ghostkv.stages.calibrated.rows import (
    ByText,
    at,
    choice_columns,
    held_out,
    point_columns,
    queries_at,
    risks_of,
    text_keys,
)
from ghostkv.stages.calibrated.validity import Resampling, alike_queries, repeat

if TYPE_CHECKING:
    from ghostkv.stages.calibrated.jobs import CalibrateLayer


@dataclass(frozen=True)
class Promises:
    """The headline design under one rule on all measured texts, and where its rows go."""

    tables: Tables
    keys: Mapping
    heads: np.ndarray
    curves: ByText
    job: CalibrateLayer

    def measure(self, design: Design) -> None:
        """Thresholds that rarely fail beside those that hold on average, repeated calibration, and exchangeability."""
        wanted = [goal for goal in goals(self.job.targets) if goal.metric in CONTROLLED]
        if not wanted:
            return
        self._add_methods(design, wanted)
        drawn = [text.role for text in self.curves].count("threshold")
        options = self.job.validity
        job = Resampling(options.resamplings, options.failure, drawn, self._seed)
        for goal in wanted:
            risks = [one.risks[goal.risk] for one in self.curves.values()]
            for one in repeat(risks, goal, job):
                numbers = {"queries": one.queries, "promising": one.promising}
                named = {**self._named(goal), "draw": one.draw, "method": one.method}
                columns = {"head": self.heads, "above": one.above, "risk": one.risk}
                self.tables.add("resampled", named | numbers, columns)
            self._add_alike(plug_in(risks, goal))

    def watch(self, found: CalibratedThresholds, calibrated_on: str) -> None:
        """What a monitor of the dropped mass sees of each held-out text, query by query; other risks it cannot see."""
        goal = found.goal
        if goal.metric != "dropped_mass":
            return
        for text, one in held_out(self.curves):
            positions = one.view.capture.positions
            order = np.argsort(positions, kind="stable")
            losses = at(one.risks[goal.risk], found.index[:, None])[:, order, 0]
            seen = {
                "positions": positions[order].tolist(),
                "losses": losses.mean(axis=0, dtype=np.float64).tolist(),
            }
            row = {"text": text.text, "domain": text.domain, "calibrated_on": calibrated_on}
            self.tables.add_rows("monitored", [self._named(goal) | row | seen])

    @property
    def _seed(self) -> int:
        """The same for all heads of a layer: they see the same draws."""
        return stable_seed(self.job.validity.seed, self.job.layer) % 2**32

    def _named(self, goal: Goal) -> dict:
        own = {"target_metric": goal.metric, "compensation": goal.compensation, "target": goal.target}
        return {**self.keys, **own}

    def _add_methods(self, design: Design, wanted: list[Goal]) -> None:
        failure = self.job.validity.failure
        for method in METHODS:
            found = []
            for goal in wanted:
                risks = risks_of(self.curves, goal, "threshold")
                found.append(
                    calibrate(risks, goal)
                    if method == CONFORMAL
                    else calibrate_surely(risks, goal, failure, method, self._seed)
                )
            for text, one in held_out(self.curves):
                queries = queries_at(one, design, found, self.job.page)
                columns = point_columns(one, queries) | choice_columns(found, self.heads, one.grid)
                named = {**self.keys, "method": method, **text_keys(text, one)}
                self.tables.add("high_probability", named, columns)

    def _add_alike(self, found: CalibratedThresholds) -> None:
        """Losses of all texts at thresholds that no text chose more than another."""
        index = found.index[:, None]
        losses = [at(one.risks[found.goal.risk], index)[..., 0] for one in self.curves.values()]
        sizes = np.array([one.shape[1] for one in losses])
        permutations = self.job.validity.permutations
        p_values = alike_queries(np.concatenate(losses, axis=1), sizes, permutations, self._seed)
        for (text, one), own in zip(self.curves.items(), losses, strict=True):
            columns = {"head": self.heads, "risk_mean": own.mean(axis=1), "p_queries": p_values}
            named = {**self._named(found.goal), **text_keys(text, one), "role": text.role}
            self.tables.add("exchangeability", named, columns)
