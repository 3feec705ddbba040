"""A tiny random Llama on disk, and field codes fitted on its own keys and queries.

``python tests/tiny.py FOLDER`` writes ``FOLDER/model`` and ``FOLDER/codecs_<layer>.safetensors``.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ghostkv.codecs.field_code import FieldCode
from ghostkv.codecs.records import CodecSpec, save_codecs

LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 2, 4, 2, 64, 320
CODE_BYTES = 8


def made() -> LlamaForCausalLM:
    """Weights are wide, so that softmaxes and the next token are not those of noise."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HEADS * HEAD_DIM, intermediate_size=256, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, vocab_size=VOCABULARY, max_position_embeddings=1024,
        initializer_range=0.1, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False, dtype="float16",
    )  # fmt: skip
    return LlamaForCausalLM(config).float().eval()


def captured(model: LlamaForCausalLM) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Queries and keys of each layer after rotary positions, [heads, tokens, head_dim], of random texts."""
    found = defaultdict(lambda: ([], []))

    def attention(module, query, key, value, attention_mask, **options):
        for kept, one in zip(found[module.layer_idx], (query, key), strict=True):
            kept.append(one[0].numpy())
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)

    AttentionInterface.register("captured", attention)
    model.set_attn_implementation("captured")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _ in range(4):
            model(torch.randint(2, VOCABULARY, (1, 512), generator=generator))
    return {layer: tuple(np.concatenate(one, 1) for one in both) for layer, both in found.items()}


def write(folder: Path) -> None:
    model = made()
    model.half().save_pretrained(folder / "model")
    spec, group = CodecSpec("field_code", CODE_BYTES), HEADS // KV_HEADS
    for layer, (queries, keys) in captured(model.float()).items():
        fitted = {
            (spec, kv): FieldCode(CODE_BYTES).fit(
                keys[kv], queries[kv * group : (kv + 1) * group].reshape(-1, HEAD_DIM)[::4]
            )
            for kv in range(KV_HEADS)
        }
        save_codecs(fitted, folder / f"codecs_{layer}.safetensors", {})


if __name__ == "__main__":
    write(Path(sys.argv[1]))
