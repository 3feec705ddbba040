"""Selectors of the peers list in a model's seat: fitted as the peers stage fits them, with one threshold for the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ghostkv.captures.capture_files import LayerCapture, read_layers_table
from ghostkv.codecs.records import CodecSpec
from ghostkv.files.buffers import Space
from ghostkv.files.errors import ConfigError
from ghostkv.runtime.seated import Seated
from ghostkv.selectors import make
from ghostkv.selectors.base import ALONE, Scene, Selector
from ghostkv.selectors.columns import OneBudget, rank
from ghostkv.selectors.scenes import (
    ThresholdScenes,
    budget_of,
    calibration_of,
    calibration_view,
    for_selector,
    view,
)

if TYPE_CHECKING:
    from ghostkv.config.policies import SelectorPolicy
    from ghostkv.runtime.sources import Sources


def seated(policy: SelectorPolicy, sources: Sources, active: Sequence[int]) -> dict[int, Seated]:
    """A selector in the layers that are not dense.

    Raises
    ------
    ConfigError
        The selector has no such column, or index and kept keys alone exceed its bytes.
    """
    found = _unfitted(policy, sources, active)
    if policy.theta is not None or not needs_threshold(policy):
        return {layer: replace(one, theta=policy.theta) for layer, one in found.items()}
    (theta,) = fit_selectors([policy], sources)
    return {layer: replace(one, theta=theta) for layer, one in found.items()}


def needs_threshold(policy: SelectorPolicy) -> bool:
    """Whether one threshold for the model decides, which texts of role `threshold` give."""
    selector = _selector(policy)[1]
    return policy.column != ALONE and type(selector).estimate is not Selector.estimate


def fit_selectors(policies: Sequence[SelectorPolicy], sources: Sources) -> list[float]:
    """The thresholds that spend policies' bytes on threshold texts, as a mean over the queries and KV heads of the model.

    Policies of the same selector are fitted together.

    Raises
    ------
    ConfigError
        Index, kept keys and dense layers alone exceed the bytes.
    """
    alike: dict[tuple, list[SelectorPolicy]] = {}
    for policy in policies:
        same = _selector(policy), policy.dense_layers, policy.sinks, policy.hot, policy.seed
        alike.setdefault(same, []).append(policy)
    groups = list(alike.values())
    ratios = [sorted({policy.ratio for policy in some}) for some in groups]
    found = {}
    for some, asked, budget in zip(groups, ratios, _spent(groups, ratios, sources), strict=True):
        for policy in some:
            if budget.least >= policy.ratio:
                raise ConfigError(
                    f"policy {policy.name}: a bytes ratio of {policy.ratio:g} is out of reach: index, sinks, hot window and dense "
                    f"layers alone read {budget.least:.3f} of the full K and V.\n  Write: ratio: {budget.least + 0.05:.2f}, or fewer "
                    "dense_layers"
                )
        theta = next(iter(budget.spending().values())).theta
        found |= {policy.name: float(theta[asked.index(policy.ratio)]) for policy in some}
    return [found[policy.name] for policy in policies]


def _spent(
    groups: Sequence[Sequence[SelectorPolicy]], ratios: Sequence[Sequence[float]], sources: Sources
) -> list[OneBudget]:
    """What every threshold would read of the model on threshold texts, for each group of policies of one selector."""
    seats, space = [], Space()
    for some, asked in zip(groups, ratios, strict=True):
        active = [layer for layer in sources.layers if layer not in some[0].dense_layers]
        seats.append((some[0], asked, _unfitted(some[0], sources, active), OneBudget(asked)))
    for layer in sources.layers:
        for capture in sources.texts("threshold", layer):
            for head in range(capture.kv_heads):
                scenes = _Scenes(capture, head, sources.start, space)
                for policy, asked, found, budget in seats:
                    seat = found.get(layer)
                    if seat is None or capture.window:
                        budget.add_dense((layer, head), int((capture.positions >= sources.start).sum()))
                        continue
                    seen = scenes.of(policy, seat)
                    ranked = rank(seat.selector, seat.fitted[head], seen)
                    budget.add((layer, head), ranked, seen, budget_of(capture, seen.visible, asked))
    return [budget for *_, budget in seats]


class _Scenes:
    """What selectors see of one KV head on one text; the same scene for all that may see the same."""

    def __init__(self, capture: LayerCapture, head: int, start: int, space: Space):
        self.asked, self.start, self.space = (capture, head), start, space
        self._key, self._found = None, None

    def of(self, policy: SelectorPolicy, seat: Seated) -> Scene:
        # Truth and earlier queries cost as much again as all else, and only these look at them.
        whole = seat.selector.kind == "oracle" or seat.observes
        records = _encoded(seat.codecs, *self.asked)
        key = policy.sinks, policy.hot, whole
        if self._key != key:
            exact = {"sinks": policy.sinks, "hot": policy.hot, "headline_start": self.start, "top_k": 1}
            asked = *self.asked, exact, records, self.space
            self._key, self._found = key, view(*asked) if whole else (calibration_view(*asked), None)
        scene, truth = self._found
        return replace(for_selector(seat.selector, scene, truth), records=records)


def _selector(policy: SelectorPolicy) -> tuple[str, Selector]:
    name, selector = make({"name": policy.selector.name, **(policy.selector.model_extra or {})})
    if policy.column not in selector.columns:
        raise ConfigError(
            f"config: policy {policy.name} has column: {policy.column}, which {name} does not have. Accepted: "
            f"{', '.join(selector.columns)}.\n  Write: column: {selector.columns[0]}"
        )
    return name, selector


def _unfitted(policy: SelectorPolicy, sources: Sources, active: Sequence[int]) -> dict[int, Seated]:
    """The selector of every layer, without a threshold."""
    # One layer decides at a time, so all share what they compute in.
    (name, selector), space = _selector(policy), Space()
    read = selector.record_spec(sources.head_dim)
    found = {}
    for layer in active:
        codecs = {} if read is None else {read: sources.fitted(layer, CodecSpec(*read))}
        if type(selector).fit is Selector.fit:
            fitted = [None] * int(read_layers_table(sources.captures[0].folder)["kv_heads"][0])
        else:
            fixed = policy.sinks, policy.hot, policy.seed, policy.ratio if selector.budgeted else None
            fitted = _fits(selector, sources, layer, *fixed)
        found[layer] = Seated(selector, fitted, policy.ratio, name, codecs, space, policy.column)
    return found


@cache
def _fits(
    selector: Selector, sources: Sources, layer: int, sinks: int, hot: int, seed: int, ratio: float | None
) -> list[Any]:
    """What is fitted of each KV head of a layer, once for all policies of the selector."""
    calibration, threshold, space = sources.texts("codec", layer), sources.texts("threshold", layer), Space()
    exact = {"sinks": sinks, "hot": hot, "headline_start": sources.start}
    read, found = selector.record_spec(sources.head_dim), []
    codecs = {} if read is None else {read: sources.fitted(layer, CodecSpec(*read))}
    for head in range(calibration[0].kv_heads):
        texts = [(capture, _encoded(codecs, capture, head)) for capture in threshold]
        scenes = ThresholdScenes(texts, head, exact, [ratio], space)
        found.append(selector.fit(calibration_of(calibration, scenes, seed)))
    return found


def _encoded(codecs: Mapping, capture: LayerCapture, head: int) -> Callable:
    """Records of a capture's keys by codec, written when they are asked for."""

    def records(name: str, size: int):
        codec = codecs[name, size][head]
        return codec, codec.decode(codec.encode(capture.keys[head]))

    return records
