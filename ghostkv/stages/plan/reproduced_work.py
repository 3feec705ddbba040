"""What the jobs do that repeat tables of others."""

from __future__ import annotations

from ghostkv.stages.plan.terms import Terms
from ghostkv.stages.plan.workload import GIGA, Workload


def repeat_predecessor(work: Workload) -> Terms:
    return Terms({"asked": float(work.config.reproduce.predecessor is not None)})


def recall_table(work: Workload) -> Terms:
    reproduce, size = work.config.reproduce, work.size
    texts = work.texts["held_out"]
    queries = texts * min(reproduce.recall_positions, work.queries["held_out"])
    # Of a ball for every fourth key, in rounds over all keys.
    clustered = texts * size.kv_heads * work.tokens**2 / 4 * size.head_dim / GIGA
    return Terms(
        {"pairs": work.pairs(queries, work.tokens) * len(reproduce.recall_at), "matmul": clustered},
        {"kv": work.kv(work.tokens), "pairs": work.tokens**2 / 4 / GIGA},
    )


def error_table(work: Workload) -> Terms:
    reproduce = work.config.reproduce
    layers = min(reproduce.error_layers, len(work.layers)) * work.texts["held_out"]
    calls = layers * min(reproduce.error_queries, work.queries["held_out"])
    return Terms(
        {"pairs": calls * work.pairs(1, work.tokens), "indexed": layers * work.kv(work.tokens)},
        {"kv": 2 * work.kv(work.tokens), "pairs": work.pairs(1, work.tokens)},
    )


def character_table(work: Workload) -> Terms:
    texts, settings = work.texts["held_out"], 4
    tokens = min(work.tokens, work.config.reproduce.foretold_characters // 4) * settings * texts
    return Terms(
        {
            "weights": work.weights,
            "matmul": work.matmul(tokens),
            "pairs": work.pairs(tokens, work.tokens) * work.deciding,
        },
        {"weights": work.weights, "cache": work.cache(work.tokens)},
    )
