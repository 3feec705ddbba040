"""Policies: what each layer of a model reads while it decodes, and what is promised about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

import numpy as np

from ghostkv.codecs.random_orthogonal import RandomOrthogonal
from ghostkv.files.errors import ConfigError
from ghostkv.models.watch import LayerShape
from ghostkv.runtime.deciders import Call, Decider
from ghostkv.runtime.ghost_decider import GhostDecider, GhostFrames, GhostState, ghost_decider
from ghostkv.runtime.packed_attention import StepRooms
from ghostkv.runtime.partly_dense import PartlyDense
from ghostkv.runtime.traffic import Rows

PREFILLS = ("dense", "sparse")


@dataclass(frozen=True)
class Policy:
    """Who decides in each layer, and what holds for all of them."""

    name: str  # how tables name it
    deciders: Mapping[int, Decider]  # by layer; layers that are not in it must be in `dense_layers`
    dense_layers: tuple[int, ...] = ()  # layers that read everything, and count in full
    # First and most recent tokens that are always read; a query's own key at the least
    sinks: int = 0
    hot: int = 1
    # {"dense", "sparse"}; what starts from an empty cache is dense, or decided query by query like the rest
    prefill: str = "dense"
    # All heads of a group attend to the union of the group's survivors, which is read anyway
    shared: bool = True
    # What is promised: "none", "calibrated ...", or "dropped mass <= ... for every query".
    certificate: str = "none"

    def __post_init__(self) -> None:
        if self.prefill not in PREFILLS:
            raise ConfigError(
                f"policy {self.name}: prefill is {self.prefill!r}. Accepted: {', '.join(PREFILLS)}.\n"
                "  Write: prefill: dense"
            )
        if self.sinks < 0 or self.hot < 1:
            raise ConfigError(
                f"policy {self.name}: sinks is {self.sinks} and hot is {self.hot}. Accepted: sinks >= 0 and hot >= 1, "
                "since a query always reads its own key.\n  Write: sinks: 4, hot: 64"
            )

    def decider(self, layer: int) -> Decider | None:
        """Who decides in a layer; None where it stays dense."""
        return None if layer in self.dense_layers else self.deciders.get(layer)

    @property
    def dense_heads(self) -> dict[int, tuple[int, ...]]:
        """KV heads that stay dense, by layer; layers that are dense as a whole are in `dense_layers`."""
        return {
            layer: decider.dense
            for layer, decider in self.deciders.items()
            if isinstance(decider, PartlyDense) and layer not in self.dense_layers
        }

    def leaving_dense(self, kv_heads: Mapping[int, Iterable[int]]) -> Self:
        """The same policy, in which these KV heads by layer stay dense: read whole, counted in full, without records."""
        deciders, layers = dict(self.deciders), {*self.dense_layers}
        for layer, heads in kv_heads.items():
            decider, dense = deciders.get(layer), sorted({*heads})
            if decider is None or not dense or layer in layers:
                continue
            if len(dense) == decider.kv_heads:
                del deciders[layer]
                layers.add(layer)
            else:
                deciders[layer] = PartlyDense.of(decider, dense)
        return replace(self, deciders=deciders, dense_layers=tuple(sorted(layers)))

    def check(self, layers: Mapping[int, LayerShape], count: int) -> None:
        """Refuse a model of another shape than what was fitted.

        Parameters
        ----------
        layers : mapping of int to LayerShape
            Those that attend.
        count : int
            All layers of the model.

        Raises
        ------
        ConfigError
            A layer has neither decider nor a place in `dense_layers`, the model lacks a layer that the policy has, or a
            decider was fitted for other heads.
        """
        foreign = [layer for layer in self.dense_layers if layer >= count]
        if foreign:
            raise ConfigError(
                f"policy {self.name}: dense_layers names {foreign}, and the model has {count} layers. Accepted: 0 to {count - 1}.\n"
                f"  Write: dense_layers: {sorted({*self.dense_layers} - {*foreign})}"
            )
        beyond = sorted(layer for layer in self.deciders if layer >= count)
        if beyond:
            raise ConfigError(
                f"policy {self.name}: it was fitted for layers {beyond} too, and the model has {count} layers. Accepted: the model "
                "that it was fitted for.\n  Write: policy = ghostkv.fit(model, tokenizer, texts, bytes_ratio=0.3)"
            )
        free = {layer: shape for layer, shape in layers.items() if not shape.barred}
        lacking = [layer for layer in free if layer not in self.deciders and layer not in self.dense_layers]
        if lacking:
            raise ConfigError(
                f"policy {self.name}: no codec for layers {lacking}; it has layers {sorted(self.deciders)}. Accepted: "
                "one for every layer that is not named dense.\n  Write: dense_layers: "
                f"{sorted({*self.dense_layers, *lacking})}, or run sketch for these layers"
            )
        for layer, shape in free.items():
            decider = self.decider(layer)
            if decider is not None:
                decider.check(shape.heads, shape.kv_heads, shape.head_dim, f"layer {layer}")


def ghost_policy(
    frames: Mapping[int, GhostFrames],
    theta: float | Mapping[int, np.ndarray],
    heads: int,
    compensate: bool = True,
    per_key: bool = False,
    name: str = "ghost",
    **options: Any,
) -> Policy:
    """A policy of ghost records.

    Parameters
    ----------
    theta : float or mapping of int to ndarray of shape [heads]
        Least estimated log mass of a key that is read: one for all heads, or one a head by layer.
    per_key : bool
        Theta counts from the uniform share, 1 over the number of visible keys.
    """
    shared, rooms = options.get("shared", True), StepRooms()
    deciders = {
        layer: ghost_decider(
            found,
            np.full(heads, theta, np.float32) if np.isscalar(theta) else np.array(theta[layer], np.float32),
            compensate,
            per_key,
            shared,
            rooms,
        )
        for layer, found in frames.items()
    }
    return Policy(name, deciders, **options)


def identity_policy(config: Any, frames: Mapping[int, GhostFrames] | None = None, **options: Any) -> Policy:
    """Ghost records everywhere and theta = -inf: the whole machinery runs and nothing is eliminated.

    Parameters
    ----------
    frames : mapping of int to GhostFrames, optional
        Fitted codecs; without them, random projections.
    """
    text = config.get_text_config()
    options = {"name": "identity", "certificate": "nothing is eliminated"} | options
    if frames is not None:
        return ghost_policy(frames, -np.inf, text.num_attention_heads, **options)
    return Policy(deciders=dict.fromkeys(range(text.num_hidden_layers), _Oblivious()), **options)


class _Oblivious(Decider):
    """Reads everything, through records that need no calibration, for whatever heads a layer has."""

    name = "ghost"

    def start(self) -> GhostState:
        return GhostState()

    def attend(self, state: GhostState, call: Call) -> tuple[np.ndarray, Rows]:
        return _reads_all(call.query.shape[1], call.keys.shape[1], call.keys.shape[3]).attend(state, call)


@cache
def _reads_all(heads: int, kv_heads: int, head_dim: int) -> GhostDecider:
    noise = np.random.default_rng(0).normal(size=(256, head_dim))
    one = RandomOrthogonal(min(8, head_dim)).fit(noise, noise)
    return GhostDecider(GhostFrames.of([one] * kv_heads), np.full(heads, -np.inf, np.float32))
