"""Quantised caches, which are read whole: rivals that choose nothing and pay for every key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ghostkv.elimination.attention import cap, softmax
from ghostkv.quantised.base import CacheType
from ghostkv.quantised.by_name import cache_type
from ghostkv.selectors.base import Budget, Scene
from ghostkv.selectors.scenes import SceneTruth

# How tables say that there is nothing to set.
WHOLE = "read whole"


def measure_caches(
    names: Sequence[str], scene: Scene, truth: SceneTruth, budget: Budget
) -> Iterator[tuple[str, dict[str, np.ndarray], np.ndarray]]:
    """Name, queries as `evaluate` returns them, and at which budgets the whole cache fits.

    Sinks and hot window stay in fp16, as for every other method.
    """
    if truth.values is None:
        return
    for name in names:
        error, ratio = _read(cache_type(name), scene, truth, budget)
        feasible = np.array([ratio.mean() <= wanted for wanted in budget.ratios])
        found = {
            "recall_32": np.ones_like(error), "fer": np.zeros_like(error), "dropped_mass": np.zeros_like(error),
            "output_error": error, "bytes_ratio_gqa": np.broadcast_to(ratio, error.shape),
            "index_ratio": np.zeros_like(error), "constant_ratio": np.zeros_like(error),
        }  # fmt: skip
        queries = {
            metric: np.where(feasible[:, None, None], values, np.nan) for metric, values in found.items()
        }
        yield name, queries, feasible


def _read(cache: CacheType, scene: Scene, truth: SceneTruth, budget: Budget) -> tuple[np.ndarray, np.ndarray]:
    """Relative output error [group, queries], and bytes ratio [queries]."""
    visible, tokens, values = scene.visible, scene.shape[2], truth.values
    keys_hat, values_hat = cache.quantise(scene.keys, values)
    token = np.arange(tokens)
    written = []
    for kept in cache.kept(visible.last):
        stop = np.minimum(visible.stop, kept)
        written.append((token >= visible.start[:, None]) & (token < stop[:, None]))
    scores = cap(scene.score(scene.queries, keys_hat), scene.softcap)
    np.copyto(scores, truth.scores, where=~written[0])
    mass, _ = softmax(scores, dtype=np.float32)
    output = np.where(written[1], mass, 0) @ values_hat + np.where(written[1], 0, mass) @ values
    error = np.linalg.norm(output - truth.outputs, axis=-1)
    error /= np.maximum(np.linalg.norm(truth.outputs, axis=-1), np.finfo(np.float32).tiny)
    widths = scene.keys.shape[1], values.shape[1]
    counts = [part.sum(axis=1) for part in written]
    few = counts[0] * cache.pair_bytes(widths[0], 0) + counts[1] * cache.pair_bytes(0, widths[1])
    whole = budget.pair_bytes / sum(widths)
    rest = [(visible.visible - count) * width * whole for count, width in zip(counts, widths, strict=True)]
    return error, (few + sum(rest)) / budget.full
