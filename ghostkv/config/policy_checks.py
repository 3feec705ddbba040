"""What policies ask of earlier stages and of the model, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable

from ghostkv.config.frontier import Frontier
from ghostkv.config.policies import CalibratedPolicy, PolicyOptions
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


def check_calibrated(where: str, entries: Iterable[PolicyOptions], frontier: Frontier) -> None:
    """Refuse, by a `ConfigError`, policies whose thresholds no earlier stage makes, before those run for hours."""
    headline = frontier.headline
    for entry in entries:
        if not isinstance(entry, CalibratedPolicy):
            continue
        if entry.record != (headline.codec, headline.bits):
            raise ConfigError(
                f"config: {where} {entry.name} takes thetas of {entry.codec} at {entry.bits:g} bits a coordinate in every layer. "
                f"Accepted: {headline.codec} at {headline.bits:g}, frontier.headline's, as others are swept for comparison alone.\n"
                f"  Write: codec: {headline.codec}, bits: {headline.bits:g}   (or leave the policy out)"
            )
        _check_calibrated(f"{where} {entry.name}", entry, frontier)


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
