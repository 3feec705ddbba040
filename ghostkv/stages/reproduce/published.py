"""Figures that others published. Where they were read: `docs/reproduce.md`."""

from __future__ import annotations

# Louver (arXiv 2605.06763), recall table, Llama-3.2-3B, n = 2,400: recall@k by method and k.
LOUVER = {
    "louver": {10: 0.9992, 100: 0.9999},
    "hnsw": {10: 0.829, 100: 0.899},
    "ivf": {10: 0.819, 100: 0.868},
    "pq": {10: 0.431, 100: 0.612},
    "lsh": {10: 0.154, 100: 0.174},
    "quest": {10: 0.268, 100: 0.375},
    "streaming": {10: 0.178, 100: 0.051},
}
# SparQ's authors (graphcore-research/llm-inference-research), Pythia-410m, n = 200: bits per character by components, of the 32 keys of
# best score with the last 8 among them, and dense.
SPARQ_KEYS, SPARQ_LOCAL = 32, 8
SPARQ_DENSE = 0.870
SPARQ = {64: 0.893, 32: 0.989, 16: 1.026}
# SkyLight's board, averages over its tasks and two models: error by method and density.
BOARD = {
    "oracle_topp": {0.1: 0.075, 0.2: 0.034},
    "oracle_topk": {0.1: 0.077, 0.2: 0.043},
    "pqcache": {0.1: 0.119, 0.2: 0.068},
    "quest": {0.1: 0.184, 0.2: 0.107},
    "double_sparsity": {0.1: 0.236, 0.2: 0.154},
    "magicpig": {0.1: 0.270, 0.2: 0.213},
}
# Its runs of Llama-3.1-8B on qa_2 of RULER at 32k: (density, error), as they are.
QA_2 = {
    "oracle_topk": ((0.058, 0.106), (0.103, 0.0686), (0.158, 0.0506), (0.208, 0.0390)),
    "vattention": ((0.049, 0.0433), (0.091, 0.0228), (0.153, 0.0137)),
    "oracle_topp": ((0.052, 0.130), (0.098, 0.0708)),
}
