"""The model itself decodes under elimination: GhostKV as an attention implementation of transformers.

    register()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="ghostkv")
    set_policy(model, policy)

From then on `generate()` and plain forward calls go through `policy`. What starts from an empty cache is prefill
and dense, unless the policy says otherwise; everything after it is decided query by query, one query at a time or
many at once.
"""

from __future__ import annotations

import math
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import getsource, signature
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from ghostkv.files.errors import ModelError
from ghostkv.models.probe import attention_layers, measurable_layers
from ghostkv.models.watch import find_cache
from ghostkv.runtime.policy import Policy
from ghostkv.runtime.seat import Runtime, Seat, remember_cache
from ghostkv.runtime.traffic import Traffic

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
    # A table of classes by implementation knows no registered ones.
    tabled = "_CLASSES[config._attn_implementation]" in getsource(sys.modules[type(model).__module__])
    if requested == NAME and (tabled or not model._can_set_attn_implementation()):
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
        The policy was fitted for a model of another shape, or lacks a layer, or names one that the model lacks.
    """
    register()
    if model.config._attn_implementation != NAME:
        raise ModelError(
            f"set_policy: {type(model).__name__} runs {model.config._attn_implementation!r} attention, so a policy "
            'would decide nothing. Accepted: a model with attn_implementation="ghostkv".\n'
            f'  Write: AutoModelForCausalLM.from_pretrained(..., attn_implementation="{NAME}"), or '
            f'model.set_attn_implementation("{NAME}")'
        )
    if model.config.output_attentions:
        raise ModelError(
            "set_policy: the model's config has output_attentions: true, and the weights of keys that are never read are not "
            "known. Accepted: false.\n  Write: model.config.output_attentions = False"
        )
    layers = attention_layers(model)
    policy.check(layers, model.config.get_text_config().num_hidden_layers)
    barred = {
        layer: shape.barred for layer, shape in layers.items() if shape.barred and policy.decider(layer)
    }
    if barred:
        measurable_layers(model)
        warnings.warn(f"layers {sorted(barred)} stay dense: {next(iter(barred.values()))}", stacklevel=2)
    runtime = Runtime(policy)
    for layer, shape in layers.items():
        old = shape.module.__dict__.get(_SEAT)
        if old is not None:
            old.hook.remove()
        seat = Seat(layer, shape, runtime)
        seat.hook = shape.module.register_forward_pre_hook(remember_cache, with_kwargs=True)
        # Not setattr: a module would look for parameters in it.
        shape.module.__dict__[_SEAT] = seat
    _note_policy(model)
    if hasattr(type(model), "generate"):
        model.generate = partial(_generate, model)
    return runtime.traffic


def unset_policy(model: PreTrainedModel) -> None:
    """Undo `set_policy`: the model attends as before once it has another attention implementation."""
    for module in model.modules():
        seat = module.__dict__.pop(_SEAT, None)
        if seat is not None:
            seat.hook.remove()
    model.__dict__.pop("generate", None)


@contextmanager
def dense_attention(model: PreTrainedModel, tokens: float = math.inf) -> Iterator[None]:
    """Run what this thread does inside densely and uncounted, whatever the policy says (to prefill in several calls, say).

    Parameters
    ----------
    tokens : float
        Only the first tokens of the cache are; later ones are decided.
    """
    dense, thread = _runtime(model).dense, threading.get_ident()
    before = dense.get(thread)
    dense[thread] = max(tokens, before or 0)
    try:
        yield
    finally:
        dense.pop(thread)
        if before is not None:
            dense[thread] = before


def _generate(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
    """transformers' `generate()`, which may read a prompt in chunks, or together with a first draft of what follows."""
    plain = type(model).generate
    if model.config._attn_implementation != NAME:
        return plain(model, *args, **kwargs)
    asked = signature(plain).bind(model, *args, **kwargs).arguments
    asked |= asked.pop("kwargs", {})
    config = asked.get("generation_config")
    kind = (config or model.generation_config).cache_implementation
    # What an old checkpoint says by itself, transformers sets aside.
    kind = asked.get("cache_implementation", None if config is None and kind == "hybrid" else kind)
    if kind not in (None, "dynamic"):
        raise ModelError(
            f"generate: cache_implementation is {kind!r}, and decoding under elimination keeps what it remembers in a cache that "
            "grows. Accepted: dynamic, the default.\n  Write: model.generate(..., cache_implementation=None)"
        )
    cache = find_cache(asked.values())
    if _runtime(model).policy.prefill == "sparse" or (cache is not None and cache.get_seq_length()):
        return plain(model, *args, **kwargs)
    read = [asked[name] for name in ("inputs", "input_ids", "inputs_embeds") if asked.get(name) is not None]
    with dense_attention(model, max((one.shape[1] for one in read), default=1)):
        return plain(model, *args, **kwargs)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """What transformers calls for every attention layer of a model with ``attn_implementation="ghostkv"``."""
    seat = module.__dict__.get(_SEAT)
    if seat is None:
        raise ModelError(_NO_POLICY)
    return seat.attend(module, query, key, value, attention_mask, **kwargs), None


def seats(model: PreTrainedModel) -> Iterator[Seat]:
    """The seats of a model's layers; none before it has a policy."""
    return (module.__dict__[_SEAT] for module in model.modules() if _SEAT in module.__dict__)


def _runtime(model: PreTrainedModel) -> Runtime:
    for seat in seats(model):
        return seat.runtime
    raise ModelError("the model has no policy yet.\n  Write: set_policy(model, policy)")
