"""Whether the machinery is exact when nothing is eliminated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from ghostkv.files.errors import ConfigError, ModelError
from ghostkv.models.interface import own_implementation
from ghostkv.models.load import load_model
from ghostkv.models.probe import new_cache
from ghostkv.runtime.ghost_attention import NAME, register, set_policy
from ghostkv.runtime.policy import Policy, identity_policy
from ghostkv.runtime.rewind import cut_back, kept_aside
from ghostkv.runtime.seat_check import checked_seats

IDENTITY = 1e-4  # of the largest logit
# Of the norm of one head's attention output, as capture.tolerance is by default.
ATTENTION = 1e-3
# Logits of the prefill that are compared.
_PREFILLED = 64


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
        `prefill_difference` (of the last tokens of the context), `block_difference` (all tokens after it at once) and
        `step_difference` (one by one), each to the model's own attention run the same way; `own_difference`, between
        the model's own two ways, for scale; `max_logit_difference`, the largest of the first three; `bound`, which all
        four must keep; `attention_difference`, the largest of any head's output to attention recomputed in float32, relative
        to its norm, which `ATTENTION` bounds in every dtype; `tokens`, `steps`, `context`.
    """
    model = _loaded(model, threads)
    tokens, context = _split(ids, context, model.device)
    policy = policy or identity_policy(model.config)
    seen = []
    with torch.inference_mode(), _own_attention(model):
        for ghostly in (False, True):
            _seat(model, policy if ghostly else None)
            cache = new_cache(model)
            kept = min(context, _PREFILLED)
            seen.append(model(tokens[:, :context], cache=cache, use_cache=True, logits_to_keep=kept).logits)
    own, ours = seen
    found = compare_decoding(model, cache, tokens, context, policy, steps)
    prefill = float((ours - own).abs().max())
    largest = max(found["max_logit_difference"], prefill)
    return {"prefill_difference": prefill} | found | {"max_logit_difference": largest}


def compare_decoding(
    model: PreTrainedModel,
    cache: DynamicCache,
    tokens: torch.Tensor,
    context: int,
    policy: Policy,
    steps: int = 8,
) -> dict[str, float | int]:
    """The same over a context [1, tokens] that is in the cache already, and without the prefill; the cache is as before.

    Notes
    -----
    A number of the size of the largest logit is rounded by up to half of eps of it, about twice a layer. Roundings of
    either sign add up as the root of their number: 16 eps are enough for 128 layers. In float32 they are 2e-6; the bound
    is 1e-4 of the largest logit, and of 1 where all logits are smaller. In bfloat16 they are an eighth of the largest logit,
    which tells no key that is left out. That is why the outputs of attention are compared too, layer by layer and in float32:
    decisions are made in float32 whatever the dtype, and no layer's rounding comes on top of another's.
    """
    steps, aside = min(steps, tokens.shape[1] - context), kept_aside(cache)

    def logits() -> tuple[torch.Tensor, torch.Tensor]:
        block = model(tokens[:, context:], cache=cache).logits
        cut_back(cache, context, aside)
        single = [model(tokens[:, t : t + 1], cache=cache).logits for t in range(context, context + steps)]
        cut_back(cache, context, aside)
        return block, torch.cat(single, dim=1)

    with torch.inference_mode(), _own_attention(model):
        own_block, own_steps = logits()
        _seat(model, policy)
        with checked_seats(model) as check:
            block, single = logits()
    found = {
        "block_difference": float((block - own_block).abs().max()),
        "step_difference": float((single - own_steps).abs().max()),
    }
    largest = max(1.0, float(own_block.abs().max()))
    bound = largest * max(IDENTITY, 16 * torch.finfo(own_block.dtype).eps)
    return {
        "max_logit_difference": max(found.values()),
        **found,
        # What rounding itself leaves open: the model's own attention, one token at a time and all at once.
        "own_difference": float((own_steps - own_block[:, :steps]).abs().max()),
        "bound": bound,
        "attention_difference": check.worst,
        "tokens": tokens.shape[1] - context,
        "steps": steps,
        "context": context,
    }


def check_identity(found: Mapping[str, float | int], model: PreTrainedModel) -> None:
    """Refuse a model that does not say what it says by itself where nothing is eliminated.

    Raises
    ------
    ModelError
        A difference of `measure_identity` or `compare_decoding` lies beyond its bound, or is no number.
    """
    names = ("prefill_difference", "block_difference", "step_difference", "own_difference")
    differences = {name: found[name] for name in names if name in found}
    attention = found["attention_difference"]
    if not (all(one <= found["bound"] for one in differences.values()) and attention <= ATTENTION):
        said = ", ".join(f"{name} {one:.3g}" for name, one in differences.items())
        raise ModelError(
            f"{type(model).__name__} under an identity policy, which eliminates nothing, does not say what it says by itself: "
            f"{said} (logits, after {found['context']} tokens). Own: its own attention, one token at a time and all at once. "
            f"Accepted: at most {found['bound']:.3g}. Of a head's output, attention_difference {attention:.3g} (relative to its "
            f"norm, in float32). Accepted: at most {ATTENTION:g}. What this model says under elimination would not be its own "
            "answer, so nothing is measured.\n  Write: model: {name: smollm2-135m-instruct}, or another whose attention is softmax of q.k"
        )


def _seat(model: PreTrainedModel, policy: Policy | None) -> None:
    """Decide by a policy; by none, the attention stays what it is."""
    if policy is not None:
        register()
        model.set_attn_implementation(NAME)
        set_policy(model, policy)


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


def _split(ids: Sequence[int], context: int | None, device: torch.device) -> tuple[torch.Tensor, int]:
    tokens = torch.as_tensor(np.asarray(ids, dtype=np.int64).reshape(1, -1), device=device)
    context = 3 * tokens.shape[1] // 4 if context is None else context
    if not 0 < context < tokens.shape[1]:
        raise ConfigError(
            f"a text of {tokens.shape[1]} tokens leaves a context of {context}. Accepted: at least one token before "
            "and one after it.\n  Write: a longer text, or fewer steps"
        )
    return tokens, context
