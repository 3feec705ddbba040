"""Tiny random models of whatever transformers can build: every size of a config class made small by its name."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 288
# What a field of a config becomes, by its name; fields of other names stay as they are.
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "max_position_embeddings": 512, "n_positions": 512, "n_ctx": 512, "max_seq_len": 512,
    "model_max_length": 512, "context_length": 512, "max_target_positions": 512, "max_source_positions": 64,
    "hidden_size": 64, "d_model": 64, "n_embd": 64, "emb_dim": 64, "embedding_dim": 64, "input_embedding_size": 64,
    "output_embedding_size": 64, "word_embed_proj_dim": 64, "embedding_size": 64, "attention_hidden_size": 64,
    "lru_width": 64, "backbone_hidden_size": 64,
    "intermediate_size": 96, "n_inner": 96, "moe_intermediate_size": 48, "decoder_ffn_dim": 96, "encoder_ffn_dim": 96,
    "ffn_dim": 96, "dim_ff": 96, "dff": 96, "d_inner": 96, "feed_forward_size": 96, "ffn_hidden_size": 96,
    "shared_expert_intermediate_size": 48, "shared_experts_intermediate_size": 48, "shared_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 48, "intermediate_size_mlp": 96, "dense_intermediate_size": 96,
    "expert_ffn_hidden_size": 48, "block_multiple_of": 8, "prompt_mid_dim": 16,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2,
    "num_query_groups": 4,
    "head_dim": 16, "d_kv": 16, "dim_head": 16, "d_head": 16, "kv_channels": 16, "attention_head_size": 16,
    "swa_head_dim": 16, "attention_head_dim": 16, "attention_hidden_dim": 64, "rotary_dim": 8,
    "query_pre_attn_scalar": 16, "global_head_dim": 16,
    "decoder_layers": 3, "encoder_layers": 3, "n_layers": 3, "num_decoder_layers": 3, "num_encoder_layers": 3,
    "num_blocks": 3,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "n_group": 1, "topk_group": 1, "num_expert_group": 1,
    "n_shared_experts": 1, "num_shared_experts": 1, "moe_num_shared_experts": 1, "zero_expert_num": 2,
    "q_lora_rank": 24, "kv_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "qk_head_dim": 24,
    "v_head_dim": 16, "o_lora_rank": 16, "o_groups": 2, "index_head_dim": 16, "index_n_heads": 2, "index_topk": 512,
    "mamba_d_state": 8, "mamba_d_head": 16, "mamba_n_heads": 8, "mamba_d_ssm": 128, "mamba_chunk_size": 16,
    "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 8, "state_size": 8, "chunk_size": 16,
    "time_step_rank": 8, "mamba_dt_rank": 8, "mamba_headdim": 16, "n_mamba_heads": 1, "adapter_rank": 8,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_head_dim": 16, "linear_num_heads": 4,
    "sliding_window": 24, "window_size": 24, "local_attention": 48, "attention_window_size": 24,
    "attention_chunk_size": 24, "sliding_window_size": 24, "local_attention_window_len": 24, "block_size": 16,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "laurel_rank": 8,
    "decoder_vocab_size": VOCABULARY, "unpadded_vocab_size": VOCABULARY, "prompt_length": 4, "rel_extent": 512,
    "router_hidden_size": 16, "mem_len": 0,
}  # fmt: skip
LAYERS = 4
GAIN = 1.4
# Names of the number of layers.
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers")
# The same for fields that are nothing by default.
UNSAID = {"head_dim": 16, "num_key_value_heads": 2, "num_experts_per_tok": 2, "n_routed_experts": 4}
MUST_BE_SAID: tuple[str, ...] = ("hidden_size_per_layer_input", "vocab_size_per_layer_input")
# Decoders that are encoders unless they are told.
TOLD = {"is_decoder": True}


def causal_types() -> list[str]:
    """Every `model_type` that the installed transformers has a causal language model for."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(kind: str) -> PretrainedConfig:
    """A small config of a model type."""
    return _small(CONFIG_MAPPING[kind], OVERRIDES.get(kind, {}))


def tiny_model(kind: str) -> PreTrainedModel:
    """A random model of a type, whose attention is not flat: what a layer makes is as large as what it is given."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(kind), dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2 and weight.shape[-1] > 1:
                scale = (
                    1.0
                    if "emb" in name or "wte" in name or "wpe" in name
                    else GAIN * weight.shape[-1] ** -0.5
                )
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
            elif not torch.isfinite(weight).all():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
    return model


def _small(kind: type[PretrainedConfig], changes: dict[str, Any]) -> PretrainedConfig:
    default = kind(**{name: value for name, value in changes.items() if name in MUST_BE_SAID})
    raw = default.to_dict()
    found = {name: value for name, value in SMALL.items() if _is_size(raw.get(name))}
    found |= {name: value for name, value in UNSAID.items() if name in raw and raw[name] is None}
    for name in ("num_key_value_heads", "num_kv_heads"):
        if _is_size(raw.get(name)):
            found[name] = 4 if raw[name] == raw.get("num_attention_heads") else min(2, raw[name])
    if "head_dim" in raw and raw["head_dim"] == raw.get("qk_rope_head_dim"):
        found["head_dim"] = SMALL["qk_rope_head_dim"]
    depth = next((name for name in DEPTHS if _is_size(raw.get(name))), None)
    if depth:
        layers = _layers(raw, raw[depth])
        found[depth] = len(layers)
        for name, value in raw.items():
            if isinstance(value, (list, tuple)) and len(value) == raw[depth]:
                found[name] = [value[layer] for layer in layers]
    if raw.get("is_decoder") is False and "decoder_layers" not in raw:
        found |= TOLD
    for name in raw:
        sub = vars(default).get(name)
        if isinstance(sub, PretrainedConfig):
            found[name] = _small(type(sub), changes.get(name, {})).to_dict()
        elif name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
            found[name] = {"pad_token_id": 0, "bos_token_id": 1}.get(name, 2)
    for name, value in changes.items():
        if not isinstance(vars(default).get(name), PretrainedConfig):
            found[name] = value
    return kind(**found)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _layers(raw: dict[str, Any], depth: int) -> list[int]:
    """A few layers of the default ones, each kind at least once and in their order."""
    kinds = next((raw[name] for name in ("layer_types", "layers_block_type") if raw.get(name)), None)
    if kinds is None or len(kinds) != depth:
        return list(range(min(LAYERS, depth)))
    first = sorted({kind: kinds.index(kind) for kind in kinds}.values())
    others = [layer for layer in range(depth) if layer not in first]
    return sorted(first + others[: max(LAYERS - len(first), 0)])


# Places count from the padding token's on.
ROOMIER = (
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
OVERRIDES: dict[str, dict[str, Any]] = {kind: {"max_position_embeddings": 520} for kind in ROOMIER} | {
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"num_hidden_layers": 3},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
        }
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "dory": {
        "num_hidden_layers": 4,
        "n_input_layers": 1,
        "n_recurrent_layers": 2,
        "n_output_layers": 1,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "dots1": {"n_shared_experts": 1},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gemma4_assistant": {
        "text_config": {
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 4,
        }
    },
    "gemma4": {"text_config": {"global_head_dim": 32}},
    "gemma4_text": {"global_head_dim": 32},
    "gemma4_unified": {"text_config": {"global_head_dim": 32}},
    "gemma4_unified_text": {"global_head_dim": 32},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": {"num_attention_heads_per_layer": [4, 8, 4, 8]},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "qwen4_exp": {
        "text_config": {
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 64,
            "indexer_compress_ratio": 4,
        }
    },
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
    "reformer": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [16, 32]},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "xmod": {"default_language": "en_XX", "max_position_embeddings": 520},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "hybrid_layer_ids": [1, 3],
        "n_mamba_heads": 8,
    },
    "zaya": {"num_experts_per_tok": 1},
}
