"""One attention layer's place in a policy: what is read densely, what is decided, and what is remembered of it."""

from __future__ import annotations

import math
import threading
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.files.errors import ModelError
from ghostkv.models.interface import ordinary_attention, refuse_foreign_terms
from ghostkv.models.watch import LayerShape, find_cache
from ghostkv.runtime.deciders import Call
from ghostkv.runtime.ghost_cache import LayerMemory, ghost_layer, layer_of
from ghostkv.runtime.policy import Policy
from ghostkv.runtime.traffic import Rows, Traffic, dense_rows

# The cache that the attention module of each thread was called with, until its attention takes it.
_HANDED = threading.local()
# Deciders write into buffers of their own, so one call is decided at a time.
_TURN = threading.RLock()
# What is added to a score, at most, where a mask hides a key.
_HIDES = -1e4


def remember_cache(module: nn.Module, args: tuple, kwargs: dict) -> None:
    _HANDED.cache = find_cache((*args, *kwargs.values()))


class Runtime:
    """What the layers of a model share."""

    def __init__(self, policy: Policy):
        self.policy, self.traffic = policy, Traffic(policy.certificate)
        self.dense: dict[int, float] = {}  # by thread, so many first tokens that are read densely
        self.warned = False
        self._mask: tuple[Tensor | None, np.ndarray] | None = None
        self._window: tuple[Tensor, int, np.ndarray] | None = None

    def first_visible(self, mask: Tensor | None, batch: int, tokens: int) -> np.ndarray:
        """First visible token of each row; one mask serves all layers of a forward pass."""
        if mask is None:
            return np.zeros(batch, np.int64)
        if self._mask is None or self._mask[0] is not mask:
            self._mask = (mask, _first_visible(mask, batch, tokens))
        return self._mask[1]

    def shown(self, mask: Tensor, batch: int, new: int, tokens: int) -> np.ndarray:
        """Tokens that a mask of any kind shows each of the last `new` queries, [batch, new]; looked at once for all layers."""
        if self._window is None or self._window[0] is not mask or self._window[1] != new:
            seen = _shown(mask, tokens)[:, 0, -new:].sum(dim=-1).expand(batch, -1).cpu().numpy()
            self._window = (mask, new, seen)
        return self._window[2]


def _first_visible(mask: Tensor, batch: int, tokens: int) -> np.ndarray:
    mask = mask.cpu()
    shown = _shown(mask, tokens)
    one = shown[:, 0].expand(batch, -1, -1)
    last = one[:, -1]
    # Of a prompt that is read in pieces, a row may begin with pieces that are nothing but padding.
    first = torch.where(last.any(dim=-1), last.int().argmax(dim=-1), tokens)
    position = torch.arange(tokens - mask.shape[2], tokens)[None, :, None]
    slot = torch.arange(tokens)[None, None]
    expected = (slot <= position) & (slot >= first[:, None, None])
    real = position[..., 0] >= first[:, None]
    alike = torch.equal(shown, shown[:, :1].expand_as(shown))
    # What is added to a score either leaves it or takes the key away; anything between is a bias.
    bias = mask.dtype != torch.bool and ((mask != 0) & ~(mask <= _HIDES))[..., :tokens].any()
    if bias or not (alike and torch.equal(one & real[..., None], expected & real[..., None])):
        raise ModelError(
            "decoding under elimination found an attention mask that is neither causal nor causal behind left "
            "padding. Accepted: unpadded prompts, or batches padded on the left.\n"
            '  Write: tokenizer.padding_side = "left"'
        )
    return first.numpy().astype(np.int64)


def _shown(mask: Tensor, tokens: int) -> Tensor:
    """Which tokens a mask shows, as bool [batch or 1, heads or 1, queries, tokens]."""
    return (mask if mask.dtype == torch.bool else mask == 0)[..., :tokens]


class Seat:
    """One attention module's place in the policy."""

    def __init__(self, layer: int, shape: LayerShape, runtime: Runtime):
        self.layer, self.runtime = layer, runtime
        self.decider = None if shape.barred else runtime.policy.decider(layer)
        # Whose masks and caches may be of any kind.
        self.barred = bool(shape.barred)
        self.hook: Any = None

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> Tensor:
        runtime = self.runtime
        cache, _HANDED.cache = getattr(_HANDED, "cache", None), None
        sliding = bool(kwargs.get("sliding_window"))
        past = self._past(cache, key, query.shape[2], sliding)
        if sliding and not runtime.warned and self.decider is not None:
            runtime.warned = True
            warnings.warn(
                f"layers with a sliding window ({kwargs['sliding_window']} tokens, layer {self.layer} first) stay dense",
                stacklevel=2,
            )
        decider = None if sliding else self.decider
        if decider is not None:
            refuse_foreign_terms(self.layer, kwargs)
            ghost_layer(cache, self.layer)
        # Queries before this one are read densely, and those are not counted.
        split = min(max(self._dense_tokens(past) - past, 0), query.shape[2])
        output, counted = None, split < query.shape[2]
        if decider is None or split:
            output = ordinary_attention(module, query, key, value, mask, **kwargs)
        with _TURN:
            if decider is None:
                if counted:
                    rows = _dense(query[:, :, split:], key, value, mask, sliding or self.barred, runtime)
                    runtime.traffic.add(self.layer, past + split, rows)
                return output
            if not (counted or decider.observes):
                return output
            call = self._call(query, key, value, mask, kwargs, past)
            memory = self._memory(cache, decider, call)
            if split and decider.observes:
                seen = call.part(0, split)
                decider.observe(memory.state, seen)
                memory.saw(seen)
            if not counted:
                return output
            call = call.part(split)
            decided, rows = decider.attend(memory.state, call)
            memory.saw(call)
            runtime.traffic.add(self.layer, call.past, rows)
        decided = torch.from_numpy(decided).to(query.device, query.dtype)
        return decided if output is None else torch.cat([output[:, :split], decided], dim=1)

    def _dense_tokens(self, past: int) -> float:
        """So many first tokens of the cache are read densely."""
        begins = past == 0 and self.runtime.policy.prefill == "dense"
        return self.runtime.dense.get(threading.get_ident(), math.inf if begins else 0)

    def _past(self, cache: Any, key: Tensor, new: int, sliding: bool) -> int:
        """Tokens before the first query, also those that a sliding window's cache has let go."""
        found = None if cache is None or self.barred else layer_of(cache, self.layer)
        if sliding and found is not None:
            return int(found.get_seq_length()) - new
        return key.shape[2] - new

    def _memory(self, cache: Any, decider: Any, call: Call) -> LayerMemory:
        """What the decider knows of the cache; of the tokens before the call an observer must know all."""
        found = ghost_layer(cache, self.layer)
        if found is None and call.past:
            raise ModelError(
                f"layer {self.layer}: {call.past} tokens lie before the first query, but the attention module was not handed "
                "the cache that holds them, and with it their records. Accepted: models that pass a cache to their attention, "
                "as those of transformers 5.24 do.\n  Write: pip install 'transformers>=5.24,<5.40'"
            )
        memory = LayerMemory(decider, decider.start()) if found is None else found.recall(decider, call)
        if decider.observes and memory.tokens != call.past:
            raise ModelError(
                f"layer {self.layer}: {decider.name} chooses by what the queries of all tokens attended to, and of the "
                f"{call.past} tokens in the cache it saw {memory.tokens or 'none'}. Accepted: a cache that was read from its "
                "first token on under this policy (set_policy comes before the prompt).\n"
                "  Write: set_policy(model, policy), then read the prompt again"
            )
        return memory

    def _call(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict, past: int
    ) -> Call:
        if query.requires_grad:
            raise ModelError(
                "decoding under elimination has no gradients. Accepted: inference.\n"
                "  Write: with torch.inference_mode(): model(...)"
            )
        policy, scale = self.runtime.policy, kwargs.get("scaling")
        read = _as_held if self.decider.reads_bfloat16 else _array
        return Call(
            _array(query.contiguous()), read(key), read(value),
            self.runtime.first_visible(mask, query.shape[0], key.shape[2]),
            past, float(query.shape[-1] ** -0.5 if scale is None else scale), float(kwargs.get("softcap") or 0.0),
            policy.sinks, policy.hot, policy.shared, self.layer,
        )  # fmt: skip


def _dense(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, sliding: bool, runtime: Runtime
) -> Rows:
    """Traffic of a layer that reads all that is visible."""
    batch, heads, new, _ = query.shape
    kv_heads, tokens = key.shape[1], key.shape[2]
    if sliding and mask is not None:
        visible = runtime.shown(mask, batch, new, tokens)
    else:
        first = runtime.first_visible(None if sliding else mask, batch, tokens)
        visible = np.maximum(np.arange(tokens - new, tokens)[None] + 1 - first[:, None], 0)
    policy = runtime.policy
    pair = float(ELEMENT_BYTES * (key.shape[3] + value.shape[3]))
    return partial(_alike, visible, kv_heads, policy.sinks, policy.hot, heads // kv_heads, pair)


def _alike(visible: np.ndarray, kv_heads: int, *more: Any) -> np.ndarray:
    """Rows of KV heads that all see as much; `visible` [batch, queries]."""
    return dense_rows(np.repeat(visible[:, None], kv_heads, axis=1), *more)


def _array(tensor: Tensor) -> np.ndarray:
    # Decisions are made on the CPU, wherever the model is, and in float32.
    return _in_pieces(tensor.to("cpu", torch.float32)).numpy()


def _as_held(tensor: Tensor) -> np.ndarray:
    """The same without a copy, where the cache is one of bfloat16 on the CPU: as uint16."""
    held = tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16
    return _in_pieces(tensor).view(torch.int16).numpy().view(np.uint16) if held else _array(tensor)


def _in_pieces(tensor: Tensor) -> Tensor:
    """With each head's tokens one after the other, as a cache has them."""
    return tensor if tensor.stride()[2:] == (tensor.shape[3], 1) else tensor.contiguous()
