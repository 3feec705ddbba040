"""Elimination against loss, bytes against context, and a decode step by step, all on generated tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.generated import Asks, Drawn, Shape, choose_asks, draw, last_queries
from ghostkv.captures.generators import Generator
from ghostkv.codecs.fitting import fit
from ghostkv.codecs.records import CodecSpec
from ghostkv.elimination.frontier import (
    Choice,
    Design,
    GroupView,
    Setting,
    choices,
    estimate_group,
    sweep_rule,
    view_group,
)
from ghostkv.elimination.summaries import point_queries, summarise, sweep_columns
from ghostkv.files.io import stable_seed
from ghostkv.stages.synthetic import expectations as expect
from ghostkv.stages.synthetic.audit import ORACLE
from ghostkv.stages.synthetic.codec_expectations import estimate_law
from ghostkv.stages.synthetic.measures import step_columns

if TYPE_CHECKING:
    from ghostkv.config.frontier import Safe

_ROLES = ("threshold", "held_out")
_SWEEP_EVERY = 2
# Steps evaluated at once.
_BLOCK = 256


@dataclass(frozen=True)
class Rule:
    """The headline rule, and what thetas are chosen for."""

    name: str
    setting: Setting
    targets: Mapping[str, Sequence[float]]
    safe: Safe


@dataclass(frozen=True)
class Tradeoff:
    """One draw: a codec text, and texts of both roles at one context length."""

    generator: Generator
    seed: int
    shape: Shape
    queries: int
    rule: Rule

    def designs(self, chosen: Sequence[CodecSpec]) -> list[Design]:
        """The oracle, and every codec fitted on the codec text."""
        text = last_queries(self.generator, self.seed, "codec", self.shape, self.queries)
        return [ORACLE] + [Design(spec.name, spec.code_bytes, fit(spec, text, self.seed)) for spec in chosen]

    def rows(
        self, designs: Sequence[Design], tokens: int, with_sweep: bool
    ) -> Iterator[tuple[str, dict, dict]]:
        """Rows as (`sweep` or `points`, scalar columns, columns of arrays) at a context of `tokens`."""
        shape = replace(self.shape, tokens=tokens)
        texts = {
            role: last_queries(self.generator, self.seed, f"{role}_{tokens}", shape, self.queries)
            for role in _ROLES
        }
        views = {role: view_group(text.capture, 0, self.rule.setting, False) for role, text in texts.items()}
        for design in designs:
            yield from self._design(design, texts, views, with_sweep)

    def _design(
        self, design: Design, texts: Mapping[str, Drawn], views: Mapping[str, GroupView], with_sweep: bool
    ) -> Iterator[tuple[str, dict, dict]]:
        name, setting = self.rule.name, self.rule.setting
        swept = {}
        for role, view in views.items():
            records = design.codec and design.codec.encode(texts[role].capture.keys[0])
            swept[role] = sweep_rule(view, estimate_group(view, design, records), name, setting)
        view, own, grid = views["held_out"], swept["held_out"], setting.grids[name]
        keys = {
            "codec": design.name, "code_bytes": design.code_bytes, "record_bytes": design.record_bytes,
            "rule": name, "tokens": view.capture.tokens, "queries": len(view.capture.positions),
        }  # fmt: skip
        heads = np.arange(len(view.queries))
        if with_sweep:
            every = slice(None, None, _SWEEP_EVERY)
            columns = sweep_columns(view, own, design, every)
            thetas = grid.theta[every]
            named = {"head": np.repeat(heads, len(thetas)), "theta": np.tile(thetas, len(heads))}
            yield "sweep", keys, columns | named
        found = choices([swept["threshold"]], [own], self.rule.targets, self.rule.safe)
        found = [one for one in found if "hindsight" not in one.method]
        index = np.stack([one.index for one in found], axis=1)
        queries = point_queries(view, own, design, index, grid, [True] * len(found))
        columns = summarise(view, queries)
        columns["expected_elimination"] = self._expected(
            design, texts["held_out"], view, found, columns["fer"]
        )
        named = {
            "target_metric": np.tile([one.metric for one in found], len(heads)),
            "target": np.tile([one.target for one in found], len(heads)),
            "method": np.tile([one.method for one in found], len(heads)),
            "head": np.repeat(heads, len(found)),
            "theta": np.where(index >= 0, grid.theta[np.maximum(index, 0)], np.nan),
        }
        yield "points", keys, columns | named

    def _expected(
        self, design: Design, text: Drawn, view: GroupView, found: Sequence[Choice], fer: np.ndarray
    ) -> np.ndarray:
        """Elimination of one threshold on normal estimates at the measured FER, [group, choices]; NaN where it is not
        known."""
        out = np.full(fer.shape, np.nan)
        if type(self.generator).normal is False or design.codec is None:
            return out
        visible = view.visible.visible
        keys, cold = int(visible.mean()), float((view.visible.cold / visible).mean())
        world = text.worlds[0]
        for head, queries in enumerate(view.queries):
            law = estimate_law(design.codec, np.zeros(world.width), world.key_covariance, queries)
            for column, choice in enumerate(found):
                lost = float(fer[head, column])
                if choice.metric == "fer" and choice.method == "calibrated" and lost > 0:
                    out[head, column] = expect.elimination_at_fer(
                        law.correlation, keys, self.rule.setting.top_k, lost, cold
                    )
        return out


@dataclass(frozen=True)
class SyntheticDecode:
    """One decode: codec and thetas from texts as long as what precedes the first step, then a growing cache."""

    generator: Generator
    seed: int
    shape: Shape
    rule: Rule
    steps: int
    ask_every: int
    masses: Sequence[float]

    def columns(self, spec: CodecSpec, target: float) -> Iterator[dict[str, np.ndarray]]:
        """Columns of the decode table for a block of steps at a time; thetas are chosen for a FER of `target`, on a
        text of `shape.tokens` tokens.
        """
        codec = fit(spec, last_queries(self.generator, self.seed, "codec", self.shape, _BLOCK), self.seed)
        design = Design(spec.name, spec.code_bytes, codec)
        theta = self._theta(design, target)
        text, wanted = self._text("held_out", np.arange(self.shape.tokens, self.shape.tokens + self.steps))
        records = codec.encode(text.capture.keys[0])
        for first in range(0, self.steps, _BLOCK):
            rows = slice(first, min(first + _BLOCK, self.steps))
            capture = _steps(text, rows)
            view = view_group(capture, 0, self.rule.setting, False)
            known = estimate_group(view, design, records[: capture.tokens])
            asked = text.asked[0][rows]
            columns = step_columns(view, design, known, self.rule.name, theta, self.rule.setting, asked)
            age = np.where(asked >= 0, capture.positions - asked, np.nan)
            yield columns | {
                "step": np.arange(rows.start, rows.stop),
                "tokens": capture.positions + 1,
                "needle_age": age,
                "needle_wanted": np.where(asked >= 0, wanted[rows], np.nan),
            }

    def _theta(self, design: Design, target: float) -> np.ndarray:
        """Thetas for the target, chosen by conformal risk control on the last queries of a threshold text."""
        tokens, name = self.shape.tokens, self.rule.name
        text, _ = self._text("threshold", np.arange(tokens - min(_BLOCK, tokens // 2), tokens))
        view = view_group(text.capture, 0, self.rule.setting, False)
        known = estimate_group(view, design, design.codec.encode(text.capture.keys[0]))
        swept = sweep_rule(view, known, name, self.rule.setting)
        found = choices([swept], [swept], {"fer": [target]}, self.rule.safe)[0]
        thetas = self.rule.setting.grids[name].theta
        return np.where(found.index >= 0, thetas[np.maximum(found.index, 0)], -np.inf)

    def _text(self, role: str, positions: np.ndarray) -> tuple[Drawn, np.ndarray]:
        """A text with queries at every one of these positions, some of which ask; the mass that each asks for."""
        turn = np.arange(len(positions))
        wanted = np.asarray(self.masses)[(turn // self.ask_every) % len(self.masses)]
        asks = self._asks(role, positions, turn % self.ask_every == 0, wanted)
        tokens = int(positions[-1]) + 1
        shape = {"group": self.shape.group, "width": self.shape.width}
        return draw(self.generator, self.seed, role, tokens, positions, asks=asks, **shape), wanted

    def _asks(self, role: str, positions: np.ndarray, asking: np.ndarray, wanted: np.ndarray) -> Asks:
        pairs = zip(wanted, positions.tolist(), strict=True)
        score = np.array([self.generator.needle_score(mass, at) for mass, at in pairs])
        margin = max(self.rule.setting.hot, self.rule.setting.sinks) + 1
        rng = np.random.default_rng(stable_seed(self.seed, role, "asks"))
        return choose_asks(rng, positions, asking, margin, score)


def _steps(text: Drawn, rows: slice):
    """The capture as it is at these steps: their queries, and no key beyond the last of them."""
    capture = text.capture
    stop = int(capture.positions[rows][-1]) + 1
    return replace(capture.at(rows, stop), values=None)
