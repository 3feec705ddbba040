"""A cache layer that carries what its decider remembers, through whatever a generation loop does to the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, StaticLayer

from ghostkv.files.errors import ModelError
from ghostkv.runtime.deciders import Call, Decider

# Room of a layer: tokens that it has, so much of them again, and a few.
_SPARE, _LEAST = 8, 64


@dataclass
class LayerMemory:
    """What a decider knows of the sequences in a cache layer, and of which tokens."""

    decider: Decider
    state: Any
    tokens: int = 0  # first tokens of the cache that the state may know of
    first: np.ndarray | None = None  # int64 [batch]; left padding of each row then
    last: np.ndarray | None = None  # [batch, kv_heads, head_dim]; key of the last of them, where it is known

    def holds(self, call: Call) -> bool:
        """Whether the tokens are those that a call finds in the cache before its own.

        A cache may have been changed by other hands than its own methods: other rows, fewer tokens, other keys.
        """
        if self.tokens == 0 or self.tokens > call.past:
            return self.tokens == 0
        # A row that was padding alone may have had more of it to come. Bytes are compared, as arrays take ten times as long.
        if self.first.tobytes() != np.minimum(call.first, self.tokens).tobytes():
            return False
        return self.last is None or self.last.tobytes() == call.keys[:, :, self.tokens - 1].tobytes()

    def saw(self, call: Call) -> None:
        """Take note that the decider was shown a call."""
        self.tokens, self.first = call.keys.shape[2], call.first
        self.last = call.keys[:, :, -1].copy()

    def truncate(self, tokens: int) -> None:
        """Forget tokens from `tokens` on."""
        if tokens < self.tokens:
            self.tokens, self.last = tokens, None
            self.state.truncate(tokens)

    def select(self, rows: np.ndarray) -> None:
        """Go on with these rows of the batch."""
        if self.tokens:
            self.state.select(rows)
            self.first = self.first[rows]
            self.last = None if self.last is None else self.last[rows]


class GhostLayer(DynamicLayer):
    """transformers' growing cache layer, and the memory of the decider that reads it.

    A plain `DynamicLayer` becomes one in place (`ghost_layer`), so `generate()` needs no cache of its own. Copies carry
    a copy of the memory. Cropping forgets what was cropped, and rows of the batch take their memory with them.

    It grows into room of its own, where a `DynamicLayer` copies all of K and V at every step. `keys` and `values` are
    views of that room.
    """

    memory: LayerMemory | None = None
    _room: tuple[Tensor | None, Tensor | None] = (None, None)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if key_states.requires_grad or value_states.requires_grad:
            return super().update(key_states, value_states, *args, **kwargs)
        tokens = self.get_seq_length() + key_states.shape[2]
        held, new = (self.keys, self.values), (key_states, value_states)
        self._room = tuple(_grown(*each) for each in zip(self._room, held, new, strict=True))
        self.keys, self.values = (room[:, :, :tokens] for room in self._room)
        return self.keys, self.values

    def recall(self, decider: Decider, call: Call) -> LayerMemory:
        """The decider's memory of this layer; a fresh one if another decider, or another sequence, was here before."""
        if self.memory is None or not decider.continues(self.memory.decider) or not self.memory.holds(call):
            self.memory = LayerMemory(decider, decider.start())
        self.memory.decider = decider
        return self.memory

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        if self.memory is not None:
            self.memory.truncate(self.get_seq_length())

    def reset(self) -> None:
        super().reset()
        self.memory, self._room = None, (None, None)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._select(beam_idx.cpu().numpy())

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = 0 if self.keys is None else len(self.keys)
        super().batch_repeat_interleave(repeats)
        self._select(np.repeat(np.arange(rows), repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._select(indices.cpu().numpy())

    def _select(self, rows: np.ndarray) -> None:
        if self.memory is not None:
            self.memory.select(np.flatnonzero(rows) if rows.dtype == bool else rows)


def _grown(room: Tensor | None, held: Tensor, new: Tensor) -> Tensor:
    """Room that holds what a layer has and what is new, [batch, kv_heads, tokens or more, dim]; `room` again if it does."""
    past = held.shape[2] if held.numel() else 0
    tokens = past + new.shape[2]
    # Other hands may have put other tensors in its place, and room of inference mode cannot be written outside of it.
    if (
        room is None
        or not past
        or held.data_ptr() != room.data_ptr()
        or (held.shape[:2], held.stride()) != (room.shape[:2], room.stride())
        or room.shape[2] < tokens
        or (room.is_inference() and not torch.is_inference_mode_enabled())
    ):
        room = new.new_empty((*new.shape[:2], tokens + tokens // _SPARE + _LEAST, new.shape[3]))
        if past:
            room[:, :, :past] = held
    room[:, :, past:tokens] = new
    return room


def ghost_layer(cache: Any, layer: int) -> GhostLayer | None:
    """The cache's layer as a `GhostLayer`; None where there is none.

    Raises
    ------
    ModelError
        The cache is not one that grows by concatenation.
    """
    found = None if cache is None else layer_of(cache, layer)
    if type(found) is DynamicLayer:
        found.__class__ = GhostLayer
    if not isinstance(found, GhostLayer | None):
        raise _unknown(cache, layer, found)
    return found


def layer_of(cache: Any, layer: int) -> Any:
    """A cache's layer of any kind that grows, its window may slide; None where the cache has no such layer.

    Raises
    ------
    ModelError
        The cache has room for tokens that are not there.
    """
    layers = getattr(cache, "self_attention_cache", cache).layers
    found = layers[layer] if layer < len(layers) else None
    if isinstance(found, StaticLayer):
        raise _unknown(cache, layer, found)
    return found


def _unknown(cache: Any, layer: int, found: Any) -> ModelError:
    return ModelError(
        f"layer {layer}: decoding under elimination found a {type(found).__name__} in a {type(cache).__name__}. "
        "Accepted: DynamicCache, the default of generate().\n"
        "  Write: model.generate(..., cache_implementation=None) or cache=DynamicCache()"
    )
