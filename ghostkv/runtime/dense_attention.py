"""Dense attention of one decode step as torch has it, in each way that could be its fastest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention


def dense_ways(
    query: np.ndarray, keys: np.ndarray, values: np.ndarray, scale: float
) -> dict[str, Callable[[], np.ndarray]]:
    """One call each of scaled_dot_product_attention over the whole cache, by name; all give the same but for rounding.

    In float32 and bfloat16, with the heads of a group beside one another, or as rows of one query: which is faster depends on
    shape and machine.

    Parameters
    ----------
    query : ndarray of float32, shape [heads, head_dim]
    keys, values : ndarray of float32, shape [kv_heads, tokens, dim]

    Returns
    -------
    dict
        Functions that return the output, float32 of shape [heads, value_dim].
    """
    ways = {}
    kv_heads, group = len(keys), len(query) // len(keys)
    for kind in (torch.float32, torch.bfloat16):
        k, v = (torch.from_numpy(one)[None].to(kind) for one in (keys, values))
        q = torch.from_numpy(query).to(kind)
        shapes = {"by_head": (1, len(query), 1, -1), "by_group": (1, kv_heads, group, -1)}
        for name, shape in shapes.items():
            ways[f"{str(kind).removeprefix('torch.')}_{name}"] = _once(q.view(shape), k, v, scale)
    return ways


def _once(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> Callable[[], np.ndarray]:
    grouped = q.shape[1] != k.shape[1]

    def once() -> np.ndarray:
        with torch.inference_mode():
            out = scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped)
            return out.float().reshape(-1, v.shape[-1]).numpy()

    return once


def set_threads(threads: int) -> None:
    """Threads of what torch does from now on."""
    torch.set_num_threads(threads)
