"""The model itself decodes under elimination: GhostKV as an attention implementation of transformers.

    register()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="ghostkv")
    set_policy(model, policy)

From then on `generate()` and plain forward calls go through `policy`. What starts from an empty cache is prefill
and dense, unless the policy says otherwise; everything after it is decided query by query, one query at a time or
many at once.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from ghostkv.files.errors import ModelError
from ghostkv.models.interface import ordinary_attention, refuse_foreign_terms
from ghostkv.models.probe import LayerShape, attention_layers, find_cache, measurable_layers
from ghostkv.runtime.deciders import Call
from ghostkv.runtime.ghost_cache import ghost_layer
from ghostkv.runtime.policy import Policy
from ghostkv.runtime.traffic import Traffic, dense_rows

NAME = "ghostkv"
_SEAT = "_ghostkv_seat"
_NO_POLICY = (
    'a model with attn_implementation="ghostkv" was called before it has a policy, so nothing says what to eliminate. '
    "Accepted: one set_policy after loading.\n"
    "  Write: set_policy(model, identity_policy(model.config)) to eliminate nothing, or load_policy(...)"
)
_own_check = PreTrainedModel.get_correct_attn_implementation
# Configs of models that have a policy, by id.
_with_policy: dict[int, weakref.ref] = {}


def register() -> None:
    """Make ``attn_implementation="ghostkv"`` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _mask)
    # transformers takes a registered name for every model, also for those that never look it up.
    PreTrainedModel.get_correct_attn_implementation = _checked_implementation


def _checked_implementation(model: PreTrainedModel, requested: str | None, *args: Any, **kwargs: Any) -> str:
    if requested == NAME and not model._can_set_attn_implementation():
        raise ModelError(
            f"{type(model).__name__} does not send its attention through transformers' attention interface, so "
            f'attn_implementation="{NAME}" would decide nothing. Accepted: models that do (docs/architectures.md).'
        )
    return _own_check(model, requested, *args, **kwargs)


def _mask(*args: Any, config: Any = None, **kwargs: Any) -> Tensor | None:
    """SDPA's mask, for models that have a policy: one whose layers never come here would take None for all is visible."""
    if id(config) not in _with_policy:
        raise ModelError(_NO_POLICY)
    return sdpa_mask(*args, config=config, **kwargs)


def _note_policy(model: PreTrainedModel) -> None:
    for config in [one.config for one in model.modules() if isinstance(one, PreTrainedModel)]:
        for known in (config, config.get_text_config()):
            # Configs cannot be hashed, and the id of one that is gone may be another's.
            _with_policy[id(known)] = weakref.ref(known, partial(_forget_policy, id(known)))


def _forget_policy(key: int, gone: weakref.ref) -> None:
    if _with_policy.get(key) is gone:
        del _with_policy[key]


def set_policy(model: PreTrainedModel, policy: Policy) -> Traffic:
    """Decide from now on by `policy`; returns the counter of what is read.

    Raises
    ------
    ModelError
        The model was not loaded with ``attn_implementation="ghostkv"``.
    ConfigError
        The policy was fitted for a model of another shape, or lacks a layer.
    """
    register()
    if model.config._attn_implementation != NAME:
        raise ModelError(
            f"set_policy: {type(model).__name__} runs {model.config._attn_implementation!r} attention, so a policy "
            'would decide nothing. Accepted: a model with attn_implementation="ghostkv".\n'
            f'  Write: AutoModelForCausalLM.from_pretrained(..., attn_implementation="{NAME}"), or '
            f'model.set_attn_implementation("{NAME}")'
        )
    layers = attention_layers(model)
    policy.check(layers)
    barred = {
        layer: shape.barred for layer, shape in layers.items() if shape.barred and policy.decider(layer)
    }
    if barred:
        measurable_layers(model)
        warnings.warn(f"layers {sorted(barred)} stay dense: {next(iter(barred.values()))}", stacklevel=2)
    runtime = _Runtime(policy)
    for layer, shape in layers.items():
        old = shape.module.__dict__.get(_SEAT)
        if old is not None:
            old.hook.remove()
        seat = _Seat(layer, shape, runtime)
        seat.hook = shape.module.register_forward_pre_hook(seat.remember_cache, with_kwargs=True)
        # Not setattr: a module would look for parameters in it.
        shape.module.__dict__[_SEAT] = seat
    _note_policy(model)
    return runtime.traffic


@contextmanager
def dense_attention(model: PreTrainedModel) -> Iterator[None]:
    """Run everything inside densely and uncounted, whatever the policy says (to prefill in several calls, say)."""
    runtime = _runtime(model)
    before, runtime.dense = runtime.dense, True
    try:
        yield
    finally:
        runtime.dense = before


class _Runtime:
    """What the layers of a model share."""

    def __init__(self, policy: Policy):
        self.policy, self.traffic, self.dense = policy, Traffic(), False
        self.warned = False
        self._mask: tuple[Tensor | None, np.ndarray] | None = None

    def first_visible(self, mask: Tensor | None, batch: int, new: int, tokens: int) -> np.ndarray:
        """First visible token of each row; one mask serves all layers of a forward pass."""
        if mask is None:
            return np.zeros(batch, np.int64)
        if self._mask is None or self._mask[0] is not mask:
            self._mask = (mask, _first_visible(mask, batch, new, tokens))
        return self._mask[1]


def _first_visible(mask: Tensor, batch: int, new: int, tokens: int) -> np.ndarray:
    shown = (mask if mask.dtype == torch.bool else mask == 0)[:, :1, :, :tokens].expand(batch, -1, -1, -1)[
        :, 0
    ]
    first = shown[:, -1].int().argmax(dim=-1)
    position = torch.arange(tokens - new, tokens)[None, :, None]
    slot = torch.arange(tokens)[None, None]
    expected = (slot <= position) & (slot >= first[:, None, None])
    real = position[..., 0] >= first[:, None]
    if not torch.equal(shown & real[..., None], expected & real[..., None]):
        raise ModelError(
            "decoding under elimination found an attention mask that is neither causal nor causal behind left "
            "padding. Accepted: unpadded prompts, or batches padded on the left.\n"
            '  Write: tokenizer.padding_side = "left"'
        )
    return first.numpy().astype(np.int64)


class _Seat:
    """One attention module's place in the policy."""

    def __init__(self, layer: int, shape: LayerShape, runtime: _Runtime):
        self.layer, self.runtime = layer, runtime
        self.decider = None if shape.barred else runtime.policy.decider(layer)
        self.cache: Any = None
        self.hook: Any = None

    def remember_cache(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.cache = find_cache((*args, *kwargs.values()))

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> Tensor:
        runtime, policy = self.runtime, self.runtime.policy
        new, sliding = query.shape[2], bool(kwargs.get("sliding_window"))
        past = self._past(key, new, sliding)
        if sliding and not runtime.warned and self.decider is not None:
            runtime.warned = True
            warnings.warn(
                f"layers with a sliding window ({kwargs['sliding_window']} tokens, layer {self.layer} first) stay dense",
                stacklevel=2,
            )
        prefill = past == 0 and policy.prefill == "dense"
        decider = None if sliding or runtime.dense else self.decider
        if decider is not None:
            refuse_foreign_terms(self.layer, kwargs)
        if decider is None or prefill:
            output = ordinary_attention(module, query, key, value, mask, **kwargs)
            if decider is not None and decider.observes:
                decider.observe(self._state(decider, past), self._call(query, key, value, mask, kwargs, past))
            if not (prefill or runtime.dense):
                runtime.traffic.add(self.layer, past, _dense(query, key, value, mask, sliding, runtime))
            return output
        state = self._state(decider, past)
        output, rows = decider.attend(state, self._call(query, key, value, mask, kwargs, past))
        runtime.traffic.add(self.layer, past, rows)
        return torch.from_numpy(output).to(query.dtype)

    def _past(self, key: Tensor, new: int, sliding: bool) -> int:
        """Tokens before the first query, also those that a sliding window's cache has let go."""
        cache = getattr(self.cache, "self_attention_cache", self.cache)
        if sliding and cache is not None and len(cache.layers) > self.layer:
            return int(cache.layers[self.layer].get_seq_length()) - new
        return key.shape[2] - new

    def _state(self, decider: Any, past: int) -> Any:
        found = ghost_layer(self.cache, self.layer)
        if found is None and past:
            raise ModelError(
                f"layer {self.layer}: {past} tokens lie before the first query, but the attention module was not handed the "
                "cache that holds them, and with it their records. Accepted: models that pass `cache` to their attention, as "
                "those of transformers 5.24 do.\n  Write: pip install 'transformers>=5.24,<5.40'"
            )
        state = decider.start() if found is None else found.state_of(decider)
        state.truncate(past)
        return state

    def _call(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict, past: int
    ) -> Call:
        if query.requires_grad:
            raise ModelError(
                "decoding under elimination has no gradients. Accepted: inference.\n"
                "  Write: with torch.inference_mode(): model(...)"
            )
        if query.device.type != "cpu":
            raise ModelError(
                f"the reference path of GhostKV runs on the CPU; the model is on {query.device}.\n"
                '  Write: model.to("cpu")'
            )
        policy, scale = self.runtime.policy, kwargs.get("scaling")
        return Call(
            _array(query), _array(key), _array(value),
            self.runtime.first_visible(mask, query.shape[0], query.shape[2], key.shape[2]),
            past, float(query.shape[-1] ** -0.5 if scale is None else scale), float(kwargs.get("softcap") or 0.0),
            policy.sinks, policy.hot, policy.shared, self.layer,
        )  # fmt: skip


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """What transformers calls for every attention layer of a model with ``attn_implementation="ghostkv"``."""
    seat = module.__dict__.get(_SEAT)
    if seat is None:
        raise ModelError(_NO_POLICY)
    return seat.attend(module, query, key, value, attention_mask, **kwargs), None


def _dense(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, sliding: bool, runtime: _Runtime
) -> np.ndarray:
    """Traffic of a layer that reads all that is visible."""
    batch, heads, new, _ = query.shape
    kv_heads, tokens = key.shape[1], key.shape[2]
    if sliding and mask is not None:
        visible = mask[:, 0, :, :tokens].sum(dim=-1).expand(batch, -1).numpy()
    else:
        first = runtime.first_visible(None if sliding else mask, batch, new, tokens)
        visible = np.maximum(np.arange(tokens - new, tokens)[None] + 1 - first[:, None], 0)
    shape = np.broadcast_to(visible[:, None], (batch, kv_heads, new))
    return dense_rows(shape, heads // kv_heads, 2.0 * (key.shape[3] + value.shape[3]))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.to(torch.float32).contiguous().numpy()


def _runtime(model: PreTrainedModel) -> _Runtime:
    for module in model.modules():
        if _SEAT in module.__dict__:
            return module.__dict__[_SEAT].runtime
    raise ModelError("the model has no policy yet.\n  Write: set_policy(model, policy)")
