"""Times of whole decode steps of a model: with its own attention, and under a policy, in turns in one process."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

from ghostkv.files.errors import ConfigError, ModelError
from ghostkv.models.interface import ordinary_attention, own_implementation
from ghostkv.runtime.ghost_attention import NAME, register, set_policy
from ghostkv.runtime.ghost_cache import GhostLayer
from ghostkv.runtime.policy import Policy

# SDPA with the heads of a group as rows of one query, which copies no key for each of them as transformers does.
_GROUPED = "ghostkv_grouped"
# The model as it comes; the same over a cache with room, in groups; the policy; and the model over hardly any context.
OWN, GROUPED, GHOST, REST = "own", "grouped", "ghost", "rest"
# Steps that write the records of the context, make room and compile.
_WARMING = 2
# Tokens of the context that are read at once.
_PIECE = 1024
# Tokens in the cache of a step that is all rest.
_SHORT = 16


@dataclass(frozen=True)
class StepTimes:
    """Steps from one length of context on, in one dtype.

    Attributes
    ----------
    seconds, cpu_seconds : mapping of str to ndarray of float64, shape [steps]
        On the clock and of all threads, by way: `own`; `grouped`, where SDPA is the model's own attention; `ghost`; and `rest`,
        a step over a few tokens: what no policy can save.
    kl : ndarray of float64, shape [steps]
        From the model's own next-token distribution to that under the policy, in nats.
    same : ndarray of bool, shape [steps]
        Whether both find the same token likeliest.
    read : mapping of str to float
        `Traffic.summary` of the policy's steps.
    """

    dtype: str
    context: int
    seconds: Mapping[str, np.ndarray]
    cpu_seconds: Mapping[str, np.ndarray]
    kl: np.ndarray
    same: np.ndarray
    read: Mapping[str, float]


def time_steps(
    model: PreTrainedModel,
    ids: Sequence[int],
    contexts: Sequence[int],
    policy: Policy,
    steps: int = 16,
    dtypes: Sequence[str] = ("float32",),
) -> Iterator[StepTimes]:
    """Decode the tokens that end each context one by one, in turns: the model's own way, in groups, and under the policy.

    The context is read once, in the model's dtype; caches of other dtypes are made from that one. Every way has a cache of
    its own, over which the same tokens are decoded.

    Parameters
    ----------
    model : PreTrainedModel
        On the CPU, where what decides runs. Its dtype is the widest of `dtypes`.
    contexts : sequence of int, ascending
        Tokens that are in the cache after the last step.

    Raises
    ------
    ConfigError
        The text is shorter than a context, or leaves none before its steps.
    ModelError
        The model is not on the CPU.
    """
    taken = steps + _WARMING
    if contexts[0] <= taken or contexts[-1] > len(ids):
        raise ConfigError(
            f"steps: contexts of {list(contexts)} tokens end in {taken} steps each, and the text has {len(ids)}. Accepted: contexts of "
            f"{taken + 1} to {len(ids)} tokens.\n  Write: contexts: [{len(ids)}]"
        )
    if model.device.type != "cpu":
        raise ModelError(
            f"time_steps: the model is on {model.device}, and what decides runs on the CPU, so that the times would be "
            'of different machines. Accepted: a model on the CPU.\n  Write: model.to("cpu")'
        )
    register()
    AttentionInterface.register(_GROUPED, _grouped)
    AttentionMaskInterface.register(_GROUPED, sdpa_mask)
    own = own_implementation(model, NAME, _GROUPED)
    tokens = torch.as_tensor(np.asarray(ids, np.int64))[None]
    models = {dtype: _as(model, dtype) for dtype in dtypes}
    cache, before = DynamicCache(config=model.config), model.config._attn_implementation
    try:
        with torch.inference_mode():
            _read(model, tokens, cache, min(_SHORT, contexts[0] - taken), own)
            short = copy.deepcopy(cache)
            for context in contexts:
                _read(model, tokens, cache, context - taken, own)
                for dtype, one in models.items():
                    ways = {OWN: own, GROUPED: _GROUPED, GHOST: NAME, REST: own}
                    if own != "sdpa":
                        # Soft caps and sinks, which SDPA does not know.
                        del ways[GROUPED]
                    yield _timed(one, tokens[:, context - taken : context], cache, short, policy, ways, dtype)
    finally:
        model.set_attn_implementation(before)


def _as(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    wanted = getattr(torch, dtype)
    return model if model.dtype == wanted else copy.deepcopy(model).to(wanted)


def _read(model: PreTrainedModel, tokens: Tensor, cache: DynamicCache, stop: int, own: str) -> None:
    """Have the first `stop` tokens in the cache."""
    model.set_attn_implementation(own)
    for first in range(cache.get_seq_length(), stop, _PIECE):
        piece = tokens[:, first : min(first + _PIECE, stop)]
        model(piece, cache=cache, use_cache=True, logits_to_keep=1)


def _timed(
    model: PreTrainedModel, tokens: Tensor, cache: DynamicCache, short: DynamicCache, policy: Policy,
    ways: Mapping[str, str], dtype: str,
) -> StepTimes:  # fmt: skip
    caches = {
        way: _copied(short if way == REST else cache, model.dtype, roomy=way in (GROUPED, GHOST))
        for way in ways
    }
    traffic, context = None, cache.get_seq_length() + tokens.shape[1]
    seconds, spent = ({way: np.empty(tokens.shape[1]) for way in ways} for _ in range(2))
    kl, same = np.empty(tokens.shape[1]), np.empty(tokens.shape[1], bool)
    for step in range(tokens.shape[1]):
        said = {}
        for way, implementation in ways.items():
            model.set_attn_implementation(implementation)
            if way == GHOST and step in (0, _WARMING):
                traffic = set_policy(model, policy)
            begun, busy = time.perf_counter(), time.process_time()
            logits = model(tokens[:, step : step + 1], cache=caches[way], use_cache=True).logits
            seconds[way][step] = time.perf_counter() - begun
            spent[way][step] = time.process_time() - busy
            said[way] = torch.log_softmax(logits[0, -1].double(), dim=-1)
        kl[step] = float((said[OWN].exp() * (said[OWN] - said[GHOST])).sum())
        same[step] = bool(said[OWN].argmax() == said[GHOST].argmax())
    late = slice(_WARMING, None)
    return StepTimes(
        dtype, context, {way: each[late] for way, each in seconds.items()},
        {way: each[late] for way, each in spent.items()}, kl[late], same[late], traffic.summary(),
    )  # fmt: skip


def _copied(cache: DynamicCache, dtype: torch.dtype, roomy: bool) -> DynamicCache:
    """A copy in another dtype; with room to grow, where a layer keeps all tokens."""
    found = copy.deepcopy(cache)
    for layer in found.layers:
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys.to(dtype), layer.values.to(dtype)
        if roomy and type(layer) is DynamicLayer:
            layer.__class__ = GhostLayer
    return found


def _grouped(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: object
) -> tuple[Tensor, None]:
    batch, heads, new, width = query.shape
    if new > 1:
        return ordinary_attention(module, query, key, value, mask, **kwargs), None
    scale = kwargs.get("scaling")
    asked = query.reshape(batch, key.shape[1], -1, width)
    scale = 1 / math.sqrt(width) if scale is None else scale
    out = scaled_dot_product_attention(asked, key, value, attn_mask=mask, scale=scale)
    return out.reshape(batch, 1, heads, -1), None
