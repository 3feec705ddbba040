"""Tiny models that decode under elimination, and codecs fitted on what they attend to."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ghostkv.codecs import by_name
from ghostkv.codecs.nested import Nested
from ghostkv.models.capture import record_attention
from ghostkv.runtime.ghost_attention import NAME, register
from ghostkv.runtime.ghost_decider import GhostFrames

HEADS, KV_HEADS, HEAD_DIM, LAYERS = 4, 2, 16, 2
BASE = {
    "vocab_size": 128,
    "hidden_size": HEADS * HEAD_DIM,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GPT2 = {
    "vocab_size": 128, "n_embd": 64, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 256, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
SIZES = {
    "llama": BASE,
    "gpt2": GPT2,
    "mistral": BASE | {"sliding_window": 24},
    "gemma2": BASE | {"sliding_window": 24, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
}
SIZES["vaultgemma"] = SIZES["gemma2"]
SIZES["gpt_oss"] = BASE | {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 24}
TOKENS, CONTEXT = 160, 120


def tiny(family: str = "llama", **changes):
    """A random model whose attention is not flat, with its own attention."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SIZES[family] | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6.0)
    return model.eval()


def ghostly(model):
    """The same model, under GhostKV."""
    register()
    model.set_attn_implementation(NAME)
    return model


def text(tokens: int = TOKENS, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(2, 127, tokens))[None]


def captured(model) -> list:
    layers = []
    positions = np.arange(TOKENS)
    record_attention(model, text(seed=2)[0].numpy(), positions, lambda layer, proof: layers.append(layer))
    return layers


def frames(captures, code_bytes: int = 4) -> dict[int, GhostFrames]:
    return {one.layer: GhostFrames.of(fitted(one, code_bytes)) for one in captures}


def fitted(capture, code_bytes: int = 4) -> list:
    return [
        by_name.make("transform_code", code_bytes, 0).fit(
            capture.keys[head], capture.group_queries(head).reshape(-1, capture.keys.shape[2])
        )
        for head in range(capture.kv_heads)
    ]


def nested(capture) -> list[Nested]:
    return [
        Nested.of((2, 2, 4, 20)).fit(
            capture.keys[head], capture.group_queries(head).reshape(-1, capture.keys.shape[2])
        )
        for head in range(capture.kv_heads)
    ]


def block(model, ids, context: int = CONTEXT, mask=None):
    """Logits of all tokens after a dense context, decided at once."""
    with torch.inference_mode():
        cache = model(ids[:, :context], use_cache=True, **_shown(mask, 0, context)).cache
        return model(ids[:, context:], cache=cache, **_shown(mask, context, ids.shape[1])).logits


def stepwise(model, ids, context: int = CONTEXT, mask=None):
    """The same, one token after the other."""
    with torch.inference_mode():
        cache = model(ids[:, :context], use_cache=True, **_shown(mask, 0, context)).cache
        return torch.cat(
            [
                model(ids[:, t : t + 1], cache=cache, **_shown(mask, t, t + 1)).logits
                for t in range(context, ids.shape[1])
            ],
            dim=1,
        )


def _shown(mask, begin: int, end: int) -> dict:
    """Mask and positions as `generate()` passes them: tokens count from the first that is no padding."""
    if mask is None:
        return {}
    positions = (mask.cumsum(dim=-1) - 1).clamp_min(0)
    return {"attention_mask": mask[:, :end], "position_ids": positions[:, begin:end]}
