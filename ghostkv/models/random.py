"""Tiny untrained models of every attention family that the lab supports, for tests.

Their attention is not flat: weights are scaled so that scores have a standard deviation of about 2.5,
whatever the width, so that a test has something to eliminate. Every tensor has its own seed from its name, so
the weights depend on nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ghostkv.files.io import stable_seed
from ghostkv.models.tokenizer import BYTE_VOCABULARY, save_byte_tokenizer

# Rows of unit scale times weights of gain / sqrt(width) give queries and keys of scale `gain`, and scores of
# scale gain^2.
_GAIN = 1.6


def make_random(entry: dict[str, Any], folder: str | Path) -> None:
    """Write an untrained model and its byte tokenizer into `folder`.

    Parameters
    ----------
    entry : dict
        A resolved `ModelEntry` of source random: architecture, layers, heads, kv_heads, head_dim,
        max_context, window, seed.
    folder : str or Path
        Takes config.json, model.safetensors, tokenizer.json.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(_config(entry), dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                generator = torch.Generator().manual_seed(
                    stable_seed(entry["seed"], entry["architecture"], name) % 2**63
                )
                scale = (
                    1.0
                    if "emb" in name or "wte" in name or "wpe" in name
                    else _GAIN * _fan_in(model, name) ** -0.5
                )
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    model.save_pretrained(folder)
    save_byte_tokenizer(folder, entry["max_context"])


def _fan_in(model: Any, name: str) -> int:
    module = model.get_submodule(name.rpartition(".")[0])
    # GPT-2's Conv1D stores its weight the other way round.
    return module.weight.shape[0 if type(module).__name__ == "Conv1D" else 1]


def _config(entry: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    width, architecture = entry["heads"] * entry["head_dim"], entry["architecture"]
    end = BYTE_VOCABULARY - 1
    common = {"vocab_size": BYTE_VOCABULARY, "bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    if architecture == "gpt2":
        sizes = {
            "n_embd": width,
            "n_layer": entry["layers"],
            "n_head": entry["heads"],
            "n_positions": entry["max_context"],
        }
        return AutoConfig.for_model("gpt2", **common, **sizes)
    sizes = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": entry["layers"],
        "num_attention_heads": entry["heads"],
        "max_position_embeddings": entry["max_context"],
    }
    if architecture != "gpt_neox":
        sizes |= {
            "num_key_value_heads": entry["kv_heads"],
            "head_dim": entry["head_dim"],
            "tie_word_embeddings": False,
        }
    if architecture == "gemma2":
        sizes["query_pre_attn_scalar"] = entry["head_dim"]
    if architecture in {"mistral", "gemma2"}:
        sizes["sliding_window"] = entry["window"] or (64 if architecture == "gemma2" else None)
    return AutoConfig.for_model(architecture, **common, **sizes)
