"""Dense attention of a decode step, in every way that this machine has."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from ghostkv.gpu.bench.layers import GeneratedLayer

# Keys of a page where a library wants pages.
_PAGE = 16


def dense_ways(layer: GeneratedLayer, interprets: bool) -> dict[str, Callable[[], torch.Tensor]]:
    """Calls that give [batch, heads, head_dim], by name; libraries that are not installed have none.

    Every sequence is as long as the cache, so that no way needs a mask.
    """
    shape, rule = layer.shape, layer.rule
    heads = layer.query[:, :, None]
    rows = layer.query.view(shape.batch, shape.kv_heads, shape.group, shape.head_dim)

    def by_heads() -> torch.Tensor:
        return scaled_dot_product_attention(
            heads, layer.keys, layer.values, scale=rule.scale, enable_gqa=True
        )[:, :, 0]

    def by_rows() -> torch.Tensor:
        return scaled_dot_product_attention(rows, layer.keys, layer.values, scale=rule.scale).view_as(
            layer.query
        )

    ways = {"sdpa, heads": by_heads, "sdpa, heads of a group as rows": by_rows}
    if not interprets:
        ways["flex attention"] = _flex(layer, heads)
        if importlib.util.find_spec("flashinfer"):
            ways["flashinfer"] = _flashinfer(layer)
        if importlib.util.find_spec("flash_attn_interface"):
            ways["flash attention 3"] = _flash_attention_3(layer)
    return ways


def _flex(layer: GeneratedLayer, heads: torch.Tensor) -> Callable[[], torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(heads, layer.keys, layer.values, scale=layer.rule.scale, enable_gqa=True)[:, :, 0]


def _flashinfer(layer: GeneratedLayer) -> Callable[[], torch.Tensor]:
    import flashinfer

    shape, device = layer.shape, layer.query.device
    pages = shape.tokens // _PAGE
    room = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(room, "HND", use_tensor_cores=True)
    count = shape.batch * pages
    wrapper.plan(
        torch.arange(0, count + 1, pages, dtype=torch.int32, device=device),
        torch.arange(count, dtype=torch.int32, device=device),
        torch.full((shape.batch,), _PAGE, dtype=torch.int32, device=device),
        shape.heads, shape.kv_heads, shape.head_dim, _PAGE, q_data_type=shape.dtype, kv_data_type=shape.dtype,
        sm_scale=layer.rule.scale,
    )  # fmt: skip
    # Pages of its own layout, [pages, kv_heads, page, head_dim].
    size = (shape.batch, shape.kv_heads, pages, _PAGE, shape.head_dim)
    caches = tuple(
        one.view(size).transpose(1, 2).reshape(count, shape.kv_heads, _PAGE, shape.head_dim)
        for one in (layer.keys, layer.values)
    )
    return lambda: wrapper.run(layer.query, caches)


def _flash_attention_3(layer: GeneratedLayer) -> Callable[[], torch.Tensor]:
    import flash_attn_interface

    query = layer.query[:, None]
    caches = [one.transpose(1, 2) for one in (layer.keys, layer.values)]
    return lambda: flash_attn_interface.flash_attn_with_kvcache(
        query,
        *caches,
        cache_seqlens=layer.length,
        softmax_scale=layer.rule.scale,
        num_splits=0,
        pack_gqa=True,
    )[:, 0]
