"""The elimination frontier of one layer: every codec and threshold rule against exact attention.

Thresholds are chosen per head on texts of role `threshold` and reported on texts of role `held_out`. The
exact scores (codec `exact`, no record) go through the same code as every codec: they are the oracle of each
rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import Codec, Decoded, Records
from ghostkv.elimination.attention import ColdRange, ExactAttention, cold_range, exact_attention
from ghostkv.elimination.grid import Grid
from ghostkv.elimination.metrics import per_query, relevant_counts
from ghostkv.elimination.record_scores import oracle_margins, score_decoded
from ghostkv.elimination.sweep import Sweep, sweep
from ghostkv.elimination.thresholds import (
    conformal_index,
    kept_or_estimated,
    reference,
    statistic,
    union_survivors,
)
from ghostkv.elimination.wide_text import WideText

if TYPE_CHECKING:
    from ghostkv.config.base import GridEntry
    from ghostkv.config.frontier import Safe


@dataclass(frozen=True)
class Setting:
    """What stays the same over a layer: exact keys, relevance, thresholds."""

    sinks: int
    hot: int
    top_k: int
    grids: Mapping[str, Grid]  # thetas of each threshold rule

    @classmethod
    def of(cls, sinks: int, hot: int, top_k: int, grids: Mapping[str, GridEntry]) -> Setting:
        """A setting from the grids that a config states."""
        spaced = {
            rule: Grid.of(np.linspace(grid.start, grid.stop, grid.count)) for rule, grid in grids.items()
        }
        return cls(sinks, hot, top_k, spaced)


@dataclass(frozen=True)
class Workspace:
    """Buffers of shape [group, queries, keys] that every design and rule of a view reuses.

    Fresh arrays of this size come from the operating system page by page, which costs as much as filling them.
    """

    estimates: np.ndarray
    known: np.ndarray
    statistic: np.ndarray

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Workspace:
        return cls(*(np.zeros(shape, np.float32) for _ in range(3)))


@dataclass(frozen=True)
class GroupView:
    """One KV head on one text: exact attention of the heads that read it, and which keys are cold."""

    capture: LayerCapture  # with the chosen queries only
    kv_head: int
    visible: ColdRange
    exact: ExactAttention
    relevant: dict[str, np.ndarray]  # [group, queries]
    wide: WideText
    # float32 [group, queries, value_dim]; exact outputs, recomputed from the stored K and V so that elimination is
    # all that an output error measures
    outputs: np.ndarray | None
    workspace: Workspace

    @property
    def queries(self) -> np.ndarray:
        """float32, shape [group, queries, head_dim]."""
        return self.capture.group_queries(self.kv_head)

    @property
    def values(self) -> np.ndarray | None:
        """float32, shape [tokens, value_dim]."""
        return self.wide.values

    @property
    def value_dim(self) -> int:
        return 0 if self.values is None else self.values.shape[1]


def view_group(
    capture: LayerCapture,
    kv_head: int,
    setting: Setting,
    with_output: bool,
    cuts: np.ndarray | None = None,
    wide: WideText | None = None,
) -> GroupView:
    """Exact attention of one KV head's group; `with_output` False skips values (calibration needs none).

    `cuts` are those of `exact_attention`; `wide` is the whole text, where that is known.
    """
    visible = cold_range(capture.positions, capture.first_visible(), setting.sinks, setting.hot)
    wide = WideText.of(capture, kv_head, with_output) if wide is None else wide
    exact = exact_attention(capture, kv_head, wide.keys, visible, setting.top_k, cuts)
    return GroupView(
        capture,
        kv_head,
        visible,
        exact,
        relevant_counts(exact.needed, visible),
        wide,
        None if wide.values is None else exact.mass @ wide.values,
        Workspace.of(exact.scores.shape),
    )


@dataclass(frozen=True)
class Design:
    """A codec as the frontier sees it; `codec` None is the exact-score oracle."""

    name: str
    code_bytes: int
    codec: Codec | None

    @property
    def record_bytes(self) -> int:
        return self.codec.record_bytes if self.codec else 0


@dataclass(frozen=True)
class Estimates:
    """What a design knows about the cold keys of a view; valid until the view's next design."""

    scores: np.ndarray  # float32 [group, queries, keys]
    weight: np.ndarray  # float32 [group, queries]
    # float32 [keys]; the margin of a pair is ``weight * radius + slack``; the oracle's is `ORACLE_MARGIN`
    radius: np.ndarray
    slack: np.ndarray  # float32 [group, queries]
    # float32 [group, queries, keys]; estimates of cold keys beside exact scores of the others
    known: np.ndarray


def estimate_group(view: GroupView, design: Design, records: Records | None) -> Estimates:
    """Score every key of a view from its ghost record."""
    return estimate_decoded(view, design, None if design.codec is None else design.codec.decode(records))


def estimate_decoded(view: GroupView, design: Design, decoded: Decoded | None) -> Estimates:
    """Score every key of a view from its record as the codec reads it; None for the oracle."""
    if decoded is None:
        exact = view.exact.scores
        return Estimates(exact, *oracle_margins(exact.shape), exact)
    scored = score_decoded(view.capture, view.kv_head, design.codec, decoded, view.workspace.estimates)
    known = kept_or_estimated(scored[0], view.exact.scores, view.visible, view.workspace.known)
    return Estimates(*scored, known)


@dataclass(frozen=True)
class RuleSweep:
    """A design under one rule on one view; its statistic is valid until the view's next rule."""

    statistic: np.ndarray | None  # None where only counts were kept
    origin: np.ndarray  # float32 [group, queries]; what the statistic is measured from
    counts: Sweep
    rates: dict[str, np.ndarray]

    def union(self, thetas: Mapping[int, np.ndarray], visible: ColdRange) -> dict[int, np.ndarray]:
        """Cold keys that a head of the group keeps under each choice's thetas [group]; int64 [queries]."""
        return {
            choice: union_survivors(self.statistic, theta, visible.start, visible.stop)
            for choice, theta in thetas.items()
        }


def sweep_rule(view: GroupView, estimates: Estimates, rule: str, setting: Setting) -> RuleSweep:
    """Every threshold of one rule, per query."""
    origin = reference(rule, estimates.known, view.visible, setting.top_k)
    compared = statistic(
        rule,
        estimates.scores,
        origin,
        estimates.weight,
        estimates.radius,
        view.visible,
        view.workspace.statistic,
    )
    counts = sweep(
        compared,
        view.exact.mass,
        view.exact.needed,
        view.visible.start,
        view.visible.stop,
        setting.grids[rule],
        view.values,
        view.outputs,
    )
    return RuleSweep(compared, origin, counts, per_query(counts, view.relevant, view.visible))


@dataclass(frozen=True)
class Choice:
    """A threshold for each head of a group, and why it was chosen."""

    metric: str  # `fer` or `dropped_mass`
    target: float
    # `calibrated`: conformal risk control at the target on threshold texts. `safe`: the same at a stricter level, to
    # leave room. `hindsight`: the best that the held-out texts themselves would allow; no user could choose it.
    method: str
    index: np.ndarray  # int [group]; threshold of each head; -1 eliminates nothing


def choices(
    threshold: Sequence[RuleSweep],
    held_out: Sequence[RuleSweep],
    targets: Mapping[str, Sequence[float]],
    safe: Safe,
) -> list[Choice]:
    """Thresholds of every head for every target and method."""
    found = []
    for metric, levels in targets.items():
        risk, samples = mean_risk(threshold, metric)
        hindsight, _ = mean_risk(held_out, metric)
        for level in levels:
            picked = np.array([conformal_index(head, samples, level) for head in risk])
            found.append(Choice(metric, level, "calibrated", picked))
            found.append(Choice(metric, level, "hindsight", (hindsight <= level).sum(axis=1) - 1))
    risk, samples = mean_risk(threshold, "fer")
    picked = np.array([conformal_index(head, samples, safe.fer * safe.margin) for head in risk])
    hindsight, _ = mean_risk(held_out, "fer")
    found.append(Choice("fer", safe.fer, "safe", picked))
    found.append(Choice("fer", safe.fer, "safe_hindsight", (hindsight <= safe.fer).sum(axis=1) - 1))
    return found


def calibrated_layer(
    captures: Sequence[LayerCapture], codecs: Sequence[Codec], setting: Setting, metric: str, target: float
) -> np.ndarray:
    """Thetas of one layer's heads on the estimated log mass, calibrated as the frontier's are; float32 [heads].

    Parameters
    ----------
    captures : sequence of LayerCapture
        Threshold texts, with the queries that count.
    codecs : sequence of Codec
        One a KV head.
    metric : str
        `fer` or `dropped_mass`; its mean over exchangeable queries is at most `target`.

    Returns
    -------
    ndarray
        -inf for a head of which nothing may be eliminated.
    """
    rule, found = "relative_lse", []
    for kv_head, codec in enumerate(codecs):
        design, swept = Design(codec.name, codec.code_bytes, codec), []
        for capture in captures:
            view = view_group(capture, kv_head, setting, with_output=False)
            known = estimate_group(view, design, codec.encode(capture.keys[kv_head]))
            swept.append(sweep_rule(view, known, rule, setting))
        risk, samples = mean_risk(swept, metric)
        index = [conformal_index(head, samples, target) for head in risk]
        found += [setting.grids[rule].theta[one] if one >= 0 else -np.inf for one in index]
    return np.array(found, np.float32)


def mean_risk(swept: Sequence[RuleSweep], metric: str) -> tuple[np.ndarray, int]:
    """Mean risk of each head over the queries of several texts, shape [group, thetas], and their number."""
    total = sum(one.rates[metric].sum(axis=1) for one in swept)
    samples = sum(one.rates[metric].shape[1] for one in swept)
    return total / samples, samples
