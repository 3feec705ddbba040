"""The one door to a model's attention: transformers' attention interface.

A function registered there is called by every attention layer with exactly the query, key, value, mask and
scale that the layer's attention uses: after norms, after RoPE, with the KV heads of GQA unexpanded. Nothing
is rebuilt from hidden states. Source: https://huggingface.co/docs/transformers/attention_interface
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ghostkv.files.errors import CaptureError, ModelError

# Not "ghostkv", which is the name under which a model decodes with elimination (ghost_attention.py).
NAME = "ghostkv_capture"
# A block of queries whose scores are held at once where a model's eager attention must be used.
_EAGER_BLOCK = 256
# What attention is told beside query, key, value and mask, and what says nothing that these do not say.
_IDLE = {
    "cache", "past_key_values", "layer_past", "use_cache", "cache_position", "position_ids", "position_embeddings",
    "sliding_window", "output_hidden_states", "output_router_logits", "return_dict", "logits_to_keep",
    "num_items_in_batch", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx",
}  # fmt: skip
_SDPA = {"scaling", "dropout", "is_causal", "position_bias"}
# Learned sinks are handed over and kept in the module, where eager attention takes them from.
_EAGER = {"s_aux"}


def refuse_no_model(model: object, verb: str) -> None:
    """Refuse what is no model of transformers, or a compiled one, whose graphs hold the attention that they were compiled with.

    Raises
    ------
    ModelError
        With what to write.
    """
    inner = getattr(model, "_orig_mod", None)
    if isinstance(inner, PreTrainedModel) or getattr(model, "_compiled_call_impl", None) is not None:
        raise ModelError(
            f"{verb}: the model is compiled, and what is compiled attends as it did then. Accepted: models that are not.\n"
            "  Write: model._orig_mod in place of torch.compile(model); load the model again after model.compile()"
        )
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"{verb}: the model is of type {type(model).__name__}. Accepted: a causal language model of transformers.\n"
            "  Write: model = AutoModelForCausalLM.from_pretrained(folder)"
        )


def refuse_foreign_terms(
    layer: int | str, kwargs: dict[str, Any], known: Collection[str] = ("scaling", "softcap")
) -> None:
    """Refuse attention that is more than the causal softmax of scaled (and capped) q.k.

    Parameters
    ----------
    known : collection of str
        Terms that whoever computes this attention reckons with.

    Raises
    ------
    CaptureError
        A learned sink, a position bias, dropout or a term that is not known takes part, attention is not causal, or
        its weights are asked for.
    """
    for name, value in kwargs.items():
        if name in _IDLE or name in known or value is None:
            continue
        if name == "output_attentions" and value:
            raise CaptureError(
                f"layer {layer}: output_attentions=True asks for the weight of every key, and the weights of keys that are "
                'never read are not known. Accepted: calls without it.\n  Write: attn_implementation="eager" to see them'
            )
        # is_causal=True is what there is anyway; of the others, nothing, no and 0 change nothing.
        if value is True if name == "is_causal" else isinstance(value, bool | int | float) and not value:
            continue
        raise CaptureError(
            f"layer {layer}: this model's attention takes `{name}`, which queries, keys and values do not carry, so what is "
            "computed from them would not be its attention. Accepted: causal softmax of scaled (and capped) q.k."
        )


@contextmanager
def attention_through(model: PreTrainedModel, attend: Callable[..., tuple[Tensor, Any]]) -> Iterator[None]:
    """Send every attention layer of `model` through `attend` while the context is open.

    Parameters
    ----------
    attend : callable
        Called as `attend(module, query, key, value, attention_mask, **kwargs)` with query [1, heads, tokens,
        head_dim], key and value [1, kv_heads, tokens, dim]; returns (output [1, tokens, heads, value_dim], None).

    Raises
    ------
    CaptureError
        The model's attention does not dispatch through the interface.
    """
    previous = model.config._attn_implementation
    AttentionInterface.register(NAME, attend)
    # sdpa's mask is None wherever causality alone says which keys are visible: no [tokens, tokens] matrix.
    AttentionMaskInterface.register(NAME, sdpa_mask)
    try:
        model.set_attn_implementation(NAME)
        if model.config._attn_implementation != NAME:
            raise CaptureError(
                f"{type(model).__name__} does not send its attention through transformers' attention "
                "interface, so its queries and keys cannot be captured as attention uses them. Accepted: "
                "any model that does (Llama, GPT-2, GPT-NeoX, Mistral, Qwen, Gemma, ...).\n  Write: model: "
                "{name: smollm2-135m-instruct}, or import tensors with capture.import"
            )
        yield
    finally:
        model.set_attn_implementation(previous)


def ordinary_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> Tensor:
    """The model's own attention: SDPA, or the eager function of its own modeling file where SDPA cannot express it.

    Returns
    -------
    Tensor
        [1, tokens, heads, value_dim], before the output projection.

    Raises
    ------
    CaptureError
        Neither takes what this attention is told.
    """
    name = type(module).__name__
    if keeps_scores(module, kwargs.get("softcap")):
        refuse_foreign_terms(getattr(module, "layer_idx", name), kwargs, _SDPA)
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise CaptureError(
            f"{name} does not run as SDPA, and its modeling file has no eager attention to run instead. Accepted: a model "
            "whose attention is SDPA, or eager (Gemma 2, gpt-oss)."
        )
    refuse_foreign_terms(getattr(module, "layer_idx", name), kwargs, _EAGER | {*signature(eager).parameters})
    return _eager_in_blocks(eager, module, query, key, value, mask, **kwargs)


def keeps_scores(module: nn.Module, softcap: float | None) -> bool:
    """Whether `ordinary_attention` is SDPA, whose scores stay in float32; eager attention rounds them to the model's dtype."""
    return softcap is None and _runs_sdpa(type(module).__module__)


def own_implementation(model: PreTrainedModel, *others: str) -> str:
    """The attention that a model came with; where it already runs one of `others`, what transformers would give it."""
    before = model.config._attn_implementation
    if before not in others:
        return before
    return "sdpa" if model._supports_sdpa else "eager"


@cache
def _runs_sdpa(modeling: str) -> bool:
    """Whether SDPA expresses the attention of every model of a modeling file: no sinks in the softmax, no soft cap."""
    models = [
        one
        for one in vars(sys.modules[modeling]).values()
        if isinstance(one, type) and issubclass(one, PreTrainedModel) and one.__module__ == modeling
    ]
    return all(one._supports_sdpa for one in models)


def _eager_in_blocks(
    eager: Callable,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> Tensor:
    """Eager attention, a block of queries at a time, so that memory grows linearly with context."""
    tokens, blocks = query.shape[2], []
    # What has a row for every query (a position bias) is not cut: where its rows are, only the model knows.
    terms = (value for name, value in kwargs.items() if name not in _IDLE)
    rowed = any(isinstance(one, Tensor) and tokens in one.shape for one in terms)
    size = tokens if rowed else _EAGER_BLOCK
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    for start in range(0, tokens, size):
        rows = slice(start, min(start + size, tokens))
        added = _added(query, key, mask, rows, causal and tokens > 1)
        blocks.append(eager(module, query[:, :, rows], key, value, added, **kwargs)[0])
    return torch.cat(blocks, dim=1)


def _added(query: Tensor, key: Tensor, mask: Tensor | None, rows: slice, causal: bool) -> Tensor | None:
    """What eager attention adds to the scores of some queries, from a mask as SDPA takes it.

    Without a mask, a single query sees every key and several see the triangle from the first key on, as in SDPA.
    """
    if mask is not None:
        shown = mask[..., rows, : key.shape[2]]
        if shown.dtype != torch.bool:
            return shown
    elif causal:
        places = torch.arange(key.shape[2], device=query.device)
        shown = places[None] <= torch.arange(rows.start, rows.stop, device=query.device)[:, None]
    else:
        return None
    added = torch.zeros(shown.shape, dtype=query.dtype, device=query.device).masked_fill_(
        ~shown, torch.finfo(query.dtype).min
    )
    return added if added.dim() == 4 else added[None, None]
