"""How the report calls methods that choose keys."""

from __future__ import annotations

from ghostkv.report.results import words

METHODS = {
    "oracle_topk": "oracle top-k",
    "oracle_topp": "oracle top-p",
    "streaming_llm": "StreamingLLM",
    "h2o": "H2O",
    "snapkv": "SnapKV",
    "quest": "Quest",
    "loki": "Loki",
    "sparq": "SparQ",
    "double_sparsity": "Double Sparsity",
    "pq": "PQ",
    "magicpig": "MagicPIG",
    "token_picker": "Token-Picker",
    "ghost": "ghost (ours)",
}


def method(selector: str) -> str:
    return METHODS.get(selector, words(selector))
