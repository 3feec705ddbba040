"""Selectors of the peers list in a model's seat: fitted as the peers stage fits them, with one threshold for the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ghostkv.captures.capture_files import LayerCapture, read_layers_table
from ghostkv.codecs.records import CodecSpec
from ghostkv.files.buffers import Space
from ghostkv.files.errors import ConfigError
from ghostkv.runtime.seated import Seated
from ghostkv.selectors import make
from ghostkv.selectors.base import ALONE, Selector
from ghostkv.selectors.columns import OneBudget, rank
from ghostkv.selectors.scenes import ThresholdScenes, budget_of, calibration_of, for_selector, view

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
    name, selector = make({"name": policy.selector.name, **(policy.selector.model_extra or {})})
    if policy.column not in selector.columns:
        raise ConfigError(
            f"config: policy {policy.name} has column: {policy.column}, which {name} does not have. Accepted: "
            f"{', '.join(selector.columns)}.\n  Write: column: {selector.columns[0]}"
        )
    # One layer decides at a time, so all share what they compute in.
    space = Space()
    found = {layer: _seated(policy, name, selector, sources, layer, space) for layer in active}
    if policy.column == ALONE or type(selector).estimate is Selector.estimate:
        return found
    theta = policy.theta
    if theta is None:
        theta = fit_selector(policy, sources, found)
    return {layer: replace(one, theta=theta) for layer, one in found.items()}


def fit_selector(policy: SelectorPolicy, sources: Sources, found: Mapping[int, Seated]) -> float:
    """The threshold that spends a policy's bytes on threshold texts, as a mean over the queries and KV heads of the model.

    Raises
    ------
    ConfigError
        Index, kept keys and dense layers alone exceed the bytes.
    """
    budget = OneBudget([policy.ratio])
    exact = {"sinks": policy.sinks, "hot": policy.hot, "headline_start": sources.start, "top_k": 1}
    for layer in sources.layers:
        seat = found.get(layer)
        for capture in sources.texts("threshold", layer):
            if seat is None or capture.window:
                for head in range(capture.kv_heads):
                    budget.add_dense((layer, head), int((capture.positions >= sources.start).sum()))
                continue
            for head in range(capture.kv_heads):
                scene, truth = view(capture, head, exact, _encoded(seat.codecs, capture, head), seat.space)
                seen = for_selector(seat.selector, scene, truth)
                ranked = rank(seat.selector, seat.fitted[head], seen)
                budget.add((layer, head), ranked, seen, budget_of(capture, scene.visible, [policy.ratio]))
    if budget.least >= policy.ratio:
        raise ConfigError(
            f"policy {policy.name}: a bytes ratio of {policy.ratio:g} is out of reach: index, sinks, hot window and dense layers "
            f"alone read {budget.least:.3f} of the full K and V.\n  Write: ratio: {budget.least + 0.05:.2f}, or fewer dense_layers"
        )
    return float(next(iter(budget.spending().values())).theta[0])


def _seated(
    policy: SelectorPolicy, name: str, selector: Selector, sources: Sources, layer: int, space: Space
) -> Seated:
    """The selector of one layer, without a threshold."""
    read = selector.record_spec(sources.head_dim)
    codecs = {} if read is None else {read: sources.fitted(layer, CodecSpec(*read))}
    fixed = {"codecs": codecs, "space": space, "column": policy.column}
    if type(selector).fit is Selector.fit:
        heads = int(read_layers_table(sources.captures[0].folder)["kv_heads"][0])
        return Seated(selector, [None] * heads, policy.ratio, name, **fixed)
    calibration, threshold = sources.texts("codec", layer), sources.texts("threshold", layer)
    exact = {"sinks": policy.sinks, "hot": policy.hot, "headline_start": sources.start}
    return Seated(
        selector,
        list(_fits(selector, codecs, calibration, threshold, exact, policy, space)),
        policy.ratio,
        name,
        **fixed,
    )


def _fits(
    selector: Selector,
    codecs: Mapping,
    calibration: Sequence[LayerCapture],
    threshold: Sequence[LayerCapture],
    exact: Mapping[str, int],
    policy: SelectorPolicy,
    space: Space,
) -> Iterator[Any]:
    for head in range(calibration[0].kv_heads):
        texts = [(capture, _encoded(codecs, capture, head)) for capture in threshold]
        scenes = ThresholdScenes(texts, head, exact, [policy.ratio], space)
        yield selector.fit(calibration_of(calibration, scenes, policy.seed))


def _encoded(codecs: Mapping, capture: LayerCapture, head: int) -> Callable:
    """Records of a capture's keys by codec, written when they are asked for."""

    def records(name: str, size: int):
        codec = codecs[name, size][head]
        return codec, codec.decode(codec.encode(capture.keys[head]))

    return records
