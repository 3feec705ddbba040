"""What policies ask of earlier stages and of the model, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable

from ghostkv.config.frontier import Frontier, Headline
from ghostkv.config.policies import CalibratedPolicy, PolicyOptions
from ghostkv.config.sketch import Sketch
from ghostkv.files.errors import ConfigError


def check_dense_layers(where: str, entries: Iterable[PolicyOptions], layers: int) -> None:
    """Refuse, by a `ConfigError`, policies that name layers which a model of so many layers lacks."""
    for entry in entries:
        lacking = [layer for layer in entry.dense_layers if layer >= layers]
        if lacking:
            raise ConfigError(
                f"config: {where} {entry.name} has dense_layers: {list(entry.dense_layers)}, and the model has {layers} layers. "
                f"Accepted: layers from 0 to {layers - 1}.\n"
                f"  Write: dense_layers: {[layer for layer in entry.dense_layers if layer < layers]}"
            )


def check_fitted(where: str, entries: Iterable[PolicyOptions], sketch: Sketch, frontier: Frontier) -> None:
    """Refuse, by a `ConfigError`, policies whose records or thresholds no earlier stage makes, before those run for hours."""
    sizes = {codec.name: codec.bits for codec in sketch.codecs}
    for entry in entries:
        codec, size = entry.record or (None, None)
        if codec and size not in sizes.get(codec, []):
            raise ConfigError(
                f"config: {where} {entry.name} reads records of {codec} at {size:g} bits a coordinate, which sketch.codecs does not "
                f"make. Accepted: {'; '.join(f'{name} at {bits}' for name, bits in sizes.items())}.\n"
                f"  Write: - {{name: {codec}, bits: {sorted([*sizes.get(codec, []), size])}}}   "
                "(under sketch.codecs, or leave the policy out)"
            )
        if codec and sketch.compared_every > 1:
            _check_every_layer(f"{where} {entry.name}", entry, frontier.headline)
        if isinstance(entry, CalibratedPolicy):
            _check_calibrated(f"{where} {entry.name}", entry, frontier)


def _check_every_layer(place: str, entry: PolicyOptions, headline: Headline) -> None:
    """A policy decodes in every layer; codecs that are there for comparison are not made in every layer."""
    codec, size = entry.record
    swept = isinstance(entry, CalibratedPolicy)
    if codec != headline.codec or (swept and size != headline.bits):
        accepted = f"{headline.codec}, frontier.headline's" + (
            f", at {headline.bits:g} bits" if swept else ""
        )
        raise ConfigError(
            f"config: {place} reads {codec} at {size:g} bits a coordinate in every layer, and sketch.compared_every leaves layers "
            f"without. Accepted: {accepted}; any other with compared_every: 1.\n  Write: compared_every: 1   (under sketch)"
        )


def _check_calibrated(place: str, entry: CalibratedPolicy, frontier: Frontier) -> None:
    targets = getattr(frontier.targets, entry.target_metric)
    if frontier.rules.relative_lse is None:
        raise ConfigError(
            f"config: {place} takes thetas of the rule relative_lse, which frontier.rules leaves out. Accepted: a grid.\n"
            "  Write: relative_lse: {start: -20, stop: 0, count: 126}   (under frontier.rules, or leave the policy out)"
        )
    if not any(abs(target - entry.target) < 1e-6 for target in targets):
        raise ConfigError(
            f"config: {place} has target: {entry.target}, which frontier.targets.{entry.target_metric} does not list. "
            f"Accepted: {targets}.\n"
            f"  Write: {entry.target_metric}: {sorted([*targets, entry.target])}   (under frontier.targets, or leave the policy out)"
        )
