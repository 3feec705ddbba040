"""Two numbers about the machinery itself: is it exact when nothing is eliminated, and how long does a step take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from ghostkv.files.errors import ConfigError
from ghostkv.models.interface import own_implementation
from ghostkv.models.load import load_model
from ghostkv.runtime import deciders
from ghostkv.runtime.ghost_attention import NAME, register, set_policy
from ghostkv.runtime.policy import Policy, identity_policy


def measure_identity(
    model: str | Path | PreTrainedModel,
    ids: Sequence[int],
    policy: Policy | None = None,
    context: int | None = None,
    steps: int = 8,
    threads: int = 1,
) -> dict[str, float | int]:
    """Largest logit difference to the model's own attention with elimination switched off.

    Parameters
    ----------
    policy : Policy, optional
        An identity policy with fitted codecs; by default one that needs none.
    context : int, optional
        Tokens of dense prefill; by default three quarters of the text.
    steps : int
        Tokens that are also decoded one by one.

    Returns
    -------
    dict
        `max_logit_difference` over both paths; `block_difference` (all tokens after the context at once),
        `step_difference` (one by one), each to the model's own attention run the same way; `own_difference`, between
        the model's own two ways, for scale; `tokens`, `steps`, `context`.
    """
    model = _loaded(model, threads)
    tokens, context = _split(ids, context)
    steps = min(steps, tokens.shape[1] - context)
    with torch.inference_mode(), _own_attention(model):
        cache = DynamicCache()
        model(tokens[:, :context], cache=cache, use_cache=True, logits_to_keep=1)

        def logits() -> tuple[torch.Tensor, torch.Tensor]:
            block = model(tokens[:, context:], cache=cache).logits
            cache.crop(context - tokens.shape[1])
            single = [
                model(tokens[:, t : t + 1], cache=cache).logits for t in range(context, context + steps)
            ]
            cache.crop(-steps)
            return block, torch.cat(single, dim=1)

        own_block, own_steps = logits()
        register()
        model.set_attn_implementation(NAME)
        set_policy(model, policy or identity_policy(model.config))
        block, single = logits()
    found = {
        "block_difference": float((block - own_block).abs().max()),
        "step_difference": float((single - own_steps).abs().max()),
    }
    # What float32 itself leaves open: the model's own attention, one token at a time and all at once.
    floor = float((own_steps - own_block[:, :steps]).abs().max())
    shape = {"tokens": tokens.shape[1] - context, "steps": steps, "context": context}
    return {"max_logit_difference": max(found.values())} | found | {"own_difference": floor} | shape


def measure_slowdown(
    model: str | Path | PreTrainedModel,
    ids: Sequence[int],
    policy: Policy,
    steps: int = 24,
    threads: int = 1,
) -> dict[str, Any]:
    """Time of a decode step under a policy and of the model's own (SDPA) step, taken in turns in one run.

    The last `steps` tokens are decoded twice over the same dense context, each in a cache of its own; a step of one
    follows a step of the other, so that whatever else the machine does hits both.

    Returns
    -------
    dict
        `slowdown` (ratio of medians), `dense_ms`, `ghost_ms` (medians), `dense_p90_ms`, `ghost_p90_ms`, `steps`,
        `context`, and `breakdown`: mean ms a step spent in `records` (writing them), `attend` (estimate, threshold,
        gather, softmax: one kernel), and `rest` (the model itself, and what surrounds the kernels).
    """
    model = _loaded(model, threads)
    tokens, context = _split(ids, len(ids) - steps - 2)
    register()
    with torch.inference_mode(), _own_attention(model):
        own = model.config._attn_implementation
        cache = DynamicCache()
        model(tokens[:, :context], cache=cache, use_cache=True, logits_to_keep=1)
        other = _copied(cache)
        model.set_attn_implementation(NAME)
        set_policy(model, policy)
        spent: dict[str, list[float]] = {"dense": [], "ghost": []}
        parts = {"records": 0.0, "attend": 0.0}
        for t in range(context, tokens.shape[1]):
            for name, implementation, one in (("dense", own, cache), ("ghost", NAME, other)):
                model.set_attn_implementation(implementation)
                with _timed(parts if t >= context + 2 else {}):
                    begin = time.perf_counter()
                    model(tokens[:, t : t + 1], cache=one)
                    spent[name].append(1e3 * (time.perf_counter() - begin))
    # The first two steps write the context's records and compile.
    dense, ghost = spent["dense"][2:], spent["ghost"][2:]
    breakdown = {name: 1e3 * value / len(ghost) for name, value in parts.items()}
    return {
        "slowdown": median(ghost) / median(dense),
        "dense_ms": median(dense),
        "ghost_ms": median(ghost),
        "dense_p90_ms": float(np.quantile(dense, 0.9)),
        "ghost_p90_ms": float(np.quantile(ghost, 0.9)),
        "steps": len(ghost),
        "context": context,
        "breakdown": breakdown | {"rest": float(np.mean(ghost)) - sum(breakdown.values())},
    }


@contextmanager
def _timed(parts: dict[str, float]):
    """Add up what the two kernels of ghost records take."""
    before = deciders.write_records, deciders.ghost_attend

    def timed(name: str, kernel: Any) -> Any:
        def run(*args: Any) -> Any:
            begin = time.perf_counter()
            kernel(*args)
            parts[name] = parts.get(name, 0.0) + time.perf_counter() - begin

        return run

    deciders.write_records, deciders.ghost_attend = timed("records", before[0]), timed("attend", before[1])
    try:
        yield
    finally:
        deciders.write_records, deciders.ghost_attend = before


@contextmanager
def _own_attention(model: PreTrainedModel):
    """The model's own attention, put back afterwards."""
    before = model.config._attn_implementation
    model.set_attn_implementation(own_implementation(model, NAME))
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _loaded(model: str | Path | PreTrainedModel, threads: int) -> PreTrainedModel:
    return model if isinstance(model, PreTrainedModel) else load_model(model, threads=threads)


def _split(ids: Sequence[int], context: int | None) -> tuple[torch.Tensor, int]:
    tokens = torch.as_tensor(np.asarray(ids, dtype=np.int64).reshape(1, -1))
    context = 3 * tokens.shape[1] // 4 if context is None else context
    if not 0 < context < tokens.shape[1]:
        raise ConfigError(
            f"a text of {tokens.shape[1]} tokens leaves a context of {context}. Accepted: at least one token before "
            "and one after it.\n  Write: a longer text, or fewer steps"
        )
    return tokens, context


def _copied(cache: Any) -> Any:
    """A cache with the same keys and values, in memory of its own."""
    copy = type(cache)()
    for layer, (keys, values, *_) in enumerate(cache):
        copy.update(keys.clone(), values.clone(), layer)
    return copy
