"""The one door to a model's attention: transformers' attention interface.

A function registered there is called by every attention layer with exactly the query, key, value, mask and
scale that the layer's attention uses: after norms, after RoPE, with the KV heads of GQA unexpanded. Nothing
is rebuilt from hidden states. Source: https://huggingface.co/docs/transformers/attention_interface
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ghostkv.files.errors import CaptureError

# Not "ghostkv", which is the name under which a model decodes with elimination (ghost_attention.py).
NAME = "ghostkv_capture"
# A block of queries whose scores are held at once where a model's eager attention must be used.
_EAGER_BLOCK = 256
# Terms that attention may add besides softmax(scale q.k) v; q, k and v alone would not be the whole truth.
_FOREIGN_TERMS = ("s_aux", "position_bias")


def refuse_foreign_terms(layer: int, kwargs: dict[str, Any]) -> None:
    """Refuse attention that is more than the softmax of scaled (and capped) q.k.

    Raises
    ------
    CaptureError
        A learned sink or a position bias takes part.
    """
    for name in _FOREIGN_TERMS:
        if kwargs.get(name) is not None:
            raise CaptureError(
                f"layer {layer}: this model's attention adds `{name}` to the scores, which queries, keys "
                "and values do not carry, so what is computed from them would not be its attention. Accepted: "
                "softmax of scaled (and capped) q.k."
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
    """
    if kwargs.get("softcap") is None:
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]
    return _eager_in_blocks(module, query, key, value, mask, **kwargs)


def own_implementation(model: PreTrainedModel, *others: str) -> str:
    """The attention that a model came with; where it already runs one of `others`, what transformers would give it."""
    before = model.config._attn_implementation
    if before not in others:
        return before
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if capped else "sdpa"


def _eager_in_blocks(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> Tensor:
    """The modeling file's eager attention, a block of queries at a time, so that memory grows linearly with
    context."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise CaptureError(
            f"{type(module).__name__} caps its scores, and its modeling file has no eager attention to run "
            "instead of SDPA. Accepted: a model whose attention is SDPA, or eager with a soft cap (Gemma 2)."
        )
    tokens, blocks = query.shape[2], []
    lowest = torch.finfo(query.dtype).min
    positions = torch.arange(key.shape[2])
    for start in range(0, tokens, _EAGER_BLOCK):
        rows = slice(start, min(start + _EAGER_BLOCK, tokens))
        visible = (
            positions[None] <= positions[rows, None] if mask is None else mask[..., rows, : key.shape[2]]
        )
        added = torch.zeros(visible.shape, dtype=query.dtype).masked_fill_(~visible, lowest)
        while added.dim() < 4:
            added = added[None]
        blocks.append(eager(module, query[:, :, rows], key, value, added, **kwargs)[0])
    return torch.cat(blocks, dim=1)
