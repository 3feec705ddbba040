"""One KV head on a text of any length, its queries block by block: memory is bounded by the block, not by the text.

What is kept of all queries is what a block leaves of each: counts at every threshold, and the few numbers from which the block is
made again. A text of one block is made once and kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import Decoded, Records
from ghostkv.elimination.attention import ColdRange, cold_range, scores
from ghostkv.elimination.frontier import (
    Design,
    Estimates,
    GroupView,
    RuleSweep,
    Setting,
    estimate_decoded,
    sweep_rule,
    view_group,
)
from ghostkv.elimination.metrics import bound_errors, per_query
from ghostkv.elimination.record_scores import oracle_margins, score_decoded
from ghostkv.elimination.sweep import Sweep
from ghostkv.elimination.thresholds import statistic, union_survivors
from ghostkv.elimination.wide_text import WideText
from ghostkv.files.blocks import query_blocks


@dataclass(frozen=True)
class TextView:
    """One KV head on one text."""

    capture: LayerCapture  # with the chosen queries only
    kv_head: int
    setting: Setting
    with_output: bool
    visible: ColdRange  # of all queries
    relevant: dict[str, np.ndarray]  # [group, queries]
    blocks: tuple[slice, ...]
    cuts: tuple[np.ndarray, ...]  # one a block, see `ExactAttention.cuts`
    wide: WideText
    whole: GroupView | None  # where there is one block

    @classmethod
    def of(cls, capture: LayerCapture, kv_head: int, setting: Setting, with_output: bool) -> TextView:
        """Go through all blocks once; `with_output` as for `view_group`."""
        blocks = tuple(query_blocks(len(capture.positions), capture.group, capture.tokens))
        relevant, cuts = [], []
        wide = WideText.of(capture, kv_head, with_output)
        # Outputs wait until a block is made again.
        first = wide if len(blocks) == 1 else replace(wide, values=None)
        for block in blocks:
            view = view_group(capture.at(block), kv_head, setting, with_output, wide=first)
            relevant.append(view.relevant)
            cuts.append(view.exact.cuts)
        return cls(
            capture,
            kv_head,
            setting,
            with_output,
            cold_range(capture.positions, capture.first_visible(), setting.sinks, setting.hot),
            {name: np.concatenate([one[name] for one in relevant], axis=1) for name in relevant[0]},
            blocks,
            tuple(cuts),
            wide,
            view if len(blocks) == 1 else None,
        )

    def __iter__(self) -> Iterator[GroupView]:
        """The blocks, each valid until the next."""
        if self.whole is not None:
            yield self.whole
            return
        for block, cuts in zip(self.blocks, self.cuts, strict=True):
            block = self.capture.at(block)
            yield view_group(block, self.kv_head, self.setting, self.with_output, cuts, self.wide)

    @property
    def value_dim(self) -> int:
        """0 where values were not captured, or are not asked for."""
        values = self.capture.values
        return 0 if values is None or not self.with_output else values.shape[2]

    def estimate(self, design: Design, records: Records | None) -> TextEstimates:
        """What a design knows of the text; valid until the next design where there is one block."""
        decoded = None if design.codec is None else design.codec.decode(records)
        whole = None if self.whole is None else estimate_decoded(self.whole, design, decoded)
        return TextEstimates(self, design, decoded, whole)


@dataclass(frozen=True)
class TextEstimates:
    """What a design knows about the cold keys of a text."""

    view: TextView
    design: Design
    decoded: Decoded | None
    whole: Estimates | None

    def on(self, view: GroupView) -> Estimates:
        """Those of a block."""
        return self.whole or estimate_decoded(view, self.design, self.decoded)

    def errors(self) -> tuple[float, ...]:
        """The sums of `bound_errors` over all queries."""
        return added([errors_of(view, self.on(view)) for view in self.view])

    def joined(self, rule: str, blocks: Sequence[RuleSweep]) -> TextSweep:
        """The sweeps of all blocks under one rule."""
        counts = Sweep.joined([block.counts for block in blocks])
        rates = per_query(counts, self.view.relevant, self.view.visible)
        return TextSweep(self, rule, tuple(block.origin for block in blocks), counts, rates)

    def scored(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, weight and radius of a block's `Estimates`, without exact attention."""
        if self.whole is not None:
            return self.whole.scores, self.whole.weight, self.whole.radius
        capture = self.view.capture.at(self.view.blocks[number])
        out = np.empty((capture.group, len(capture.positions), capture.tokens), np.float32)
        if self.decoded is not None:
            return score_decoded(capture, self.view.kv_head, self.design.codec, self.decoded, out)[:3]
        queries = capture.group_queries(self.view.kv_head)
        scores(queries, self.view.wide.keys, capture.scale, capture.softcap, out=out)
        return out, *oracle_margins(out.shape)[:2]


def sweep_text(
    designs: Sequence[TextEstimates], rules: Sequence[str]
) -> list[tuple[dict[str, TextSweep], tuple[float, ...]]]:
    """Every threshold of every rule, for some designs on one text; and the sums of `bound_errors` of each.

    Each block of the text is made once. A text of one block takes one design at a time.
    """
    found = [{rule: [] for rule in rules} for _ in designs]
    errors = [[] for _ in designs]
    for view in designs[0].view:
        for number, design in enumerate(designs):
            known = design.on(view)
            if design.decoded is not None:
                errors[number].append(errors_of(view, known))
            for rule in rules:
                found[number][rule].append(counted(sweep_rule(view, known, rule, design.view.setting)))
    return [
        ({rule: design.joined(rule, found[number][rule]) for rule in rules}, added(errors[number]))
        for number, design in enumerate(designs)
    ]


def counted(swept: RuleSweep) -> RuleSweep:
    """What is kept of a block: not its statistic, which the next rule overwrites, nor rates, which follow from counts."""
    return replace(swept, statistic=None, rates={})


def errors_of(view: GroupView, known: Estimates) -> tuple[float, ...]:
    """`bound_errors` of a block."""
    return bound_errors(
        view.exact.scores, known.scores, known.weight, known.radius, known.slack, view.visible
    )


def added(errors: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The sums of several blocks."""
    return tuple(map(sum, zip(*errors, strict=True)))


@dataclass(frozen=True)
class TextSweep:
    """A design under one rule on a text."""

    estimates: TextEstimates
    rule: str
    origins: tuple[np.ndarray, ...]  # one a block, as of `RuleSweep`
    counts: Sweep
    rates: dict[str, np.ndarray]

    def union(self, thetas: Mapping[int, np.ndarray], visible: ColdRange) -> dict[int, np.ndarray]:
        """As `RuleSweep.union`, of all queries; statistics are made again."""
        found: dict[int, list[np.ndarray]] = {choice: [] for choice in thetas}
        for number, block in enumerate(self.estimates.view.blocks if thetas else ()):
            known, weight, radius = self.estimates.scored(number)
            seen = visible.at(block)
            compared = statistic(
                self.rule, known, self.origins[number], weight, radius, seen, self._space(known)
            )
            for choice, theta in thetas.items():
                found[choice].append(union_survivors(compared, theta, seen.start, seen.stop))
        return {choice: np.concatenate(blocks) for choice, blocks in found.items()}

    def blocks(self) -> Iterator[tuple[GroupView, np.ndarray]]:
        """Exact attention and the statistic of each block, valid until the next; statistics are made again."""
        for number, view in enumerate(self.estimates.view):
            known = self.estimates.on(view)
            compared = statistic(
                self.rule,
                known.scores,
                self.origins[number],
                known.weight,
                known.radius,
                view.visible,
                view.workspace.statistic,
            )
            yield view, compared

    def _space(self, known: np.ndarray) -> np.ndarray:
        whole = self.estimates.view.whole
        return np.empty_like(known) if whole is None else whole.workspace.statistic
