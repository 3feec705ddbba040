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
    "one_bit": "1-bit records",
    "sign_hash": "sign hash",
    "twilight": "Twilight",
    "louver": "Louver",
    "shadowkv": "ShadowKV",
    "retroinfer": "RetroInfer",
    "clusterkv": "ClusterKV",
    "vattention": "vAttention",
    "int8": "INT8 cache",
    "int6": "INT6 cache",
    "int4": "INT4 cache",
    "int3": "INT3 cache",
    "kivi2": "KIVI 2-bit cache",
    "fp8": "fp8 cache",
    "ghost": "ghost (ours)",
}


def method(selector: str) -> str:
    return METHODS.get(selector, words(selector))


def family(name: str) -> str:
    """A family of policies: the method, and how its index is spent where that is not alone."""
    known = max((one for one in METHODS if name == one or name.startswith(f"{one}_")), key=len, default="")
    rest = words(name.removeprefix(known).strip("_")) if known else ""
    return ", ".join(filter(None, (METHODS[known], rest))) if known else words(name)
