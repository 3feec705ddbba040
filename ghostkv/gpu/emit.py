"""Survivors as other attention kernels take them, and parts of a softmax merged; bases of logarithms are converted only here.

KV heads count as sequences: row ``r`` is a KV head of a sequence, its cache is paged with pages of one key, and its queries are
the heads of the group. Each function imports the library that it calls.
"""

from __future__ import annotations

import importlib
import math
from typing import NamedTuple

import torch

from ghostkv.gpu.errors import DeviceError
from ghostkv.gpu.layout import DeviceRule
from ghostkv.gpu.workspace import Survivors

_LN2 = math.log(2.0)


class AttentionState(NamedTuple):
    """A part of a softmax: what it comes to, and the mass behind it."""

    out: torch.Tensor  # [rows, group, head_dim]
    lse: torch.Tensor  # float32 [rows, group]; natural logarithm


class PageLists(NamedTuple):
    """Page tables row after row, as FlashInfer and SGLang take them."""

    indptr: torch.Tensor  # int32 [rows + 1]
    indices: torch.Tensor  # int32 [rows * tokens]; entries beyond ``indptr[-1]`` mean nothing


def to_csr(survivors: Survivors) -> PageLists:
    """Page tables without gaps; waits for nothing, so that `indices` is as long as it can get."""
    table, counts = survivors.page_table, survivors.seqlens
    rows, tokens = table.shape
    indptr = torch.zeros(rows + 1, dtype=torch.int32, device=table.device)
    torch.cumsum(counts, 0, dtype=torch.int32, out=indptr[1:])
    at = torch.arange(tokens, device=table.device, dtype=torch.int32)
    # What lies beyond a row's count goes to one place past the end.
    place = torch.where(at < counts[:, None], indptr[:-1, None] + at, rows * tokens)
    indices = torch.zeros(rows * tokens + 1, dtype=torch.int32, device=table.device)
    indices.scatter_(0, place.flatten().long(), table.flatten())
    return PageLists(indptr, indices[:-1])


def tail_state(survivors: Survivors, group: int) -> AttentionState:
    """What stands for the keys that are not read: the mean V of the cold keys, with the mass of the eliminated ones."""
    out = survivors.tail_value[:, None].expand(-1, group, -1)
    return AttentionState(out, survivors.tail_lse[:, :group] * _LN2)


def merge_states(first: AttentionState, second: AttentionState) -> AttentionState:
    """Two parts of one softmax as one; `out` in the type of the first."""
    lse = torch.logaddexp(first.lse, second.lse)
    # Where neither has any mass the weights are those of nothing.
    floor = torch.where(torch.isneginf(lse), 0.0, lse)
    weights = [torch.exp(one.lse - floor)[..., None] for one in (first, second)]
    out = weights[0] * first.out.float() + weights[1] * second.out.float()
    return AttentionState(out.to(first.out.dtype), lse)


def pages(cache: torch.Tensor) -> torch.Tensor:
    """A cache [batch, kv_heads, tokens, head_dim] as pages of one key, [rows * tokens, 1, 1, head_dim]; a view."""
    return cache.view(-1, 1, 1, cache.shape[-1])


def flash_attention_3(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, survivors: Survivors, rule: DeviceRule
) -> AttentionState:
    """Attention over survivors by FlashAttention-3, which waits for nothing; the tail is the caller's to merge.

    Parameters
    ----------
    query : Tensor, shape [batch, heads, head_dim]
    keys, values : Tensor, shape [batch, kv_heads, tokens, head_dim]

    Raises
    ------
    DeviceError
        The library is not installed.
    """
    library = _library(
        "flash_attn_interface", "FlashAttention-3 (folder hopper of Dao-AILab/flash-attention)"
    )
    out, lse, *_ = library.flash_attn_with_kvcache(
        grouped(query, survivors)[:, None], pages(keys), pages(values), cache_seqlens=survivors.seqlens,
        page_table=survivors.page_table, softmax_scale=rule.scale, softcap=rule.softcap, num_splits=0, pack_gqa=True,
        return_softmax_lse=True,
    )  # fmt: skip
    return AttentionState(out[:, 0], lse[:, :, 0])


def flashinfer(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, survivors: Survivors, rule: DeviceRule
) -> AttentionState:
    """The same by FlashInfer, whose plan waits for the device: a second opinion and a baseline, nothing to decode with."""
    library = _library("flashinfer", "FlashInfer (pip install flashinfer-python)")
    lists, queries = to_csr(survivors), grouped(query, survivors)
    rows, group, dim = queries.shape
    room = torch.empty(128 << 20, dtype=torch.uint8, device=query.device)
    wrapper = library.BatchDecodeWithPagedKVCacheWrapper(room, "NHD", use_tensor_cores=True)
    wrapper.plan(
        lists.indptr, lists.indices[: int(lists.indptr[-1])], torch.ones(rows, dtype=torch.int32, device=query.device),
        group, 1, dim, 1, q_data_type=query.dtype, kv_data_type=keys.dtype, sm_scale=rule.scale,
        logits_soft_cap=rule.softcap or None,
    )  # fmt: skip
    out, lse = wrapper.run(queries, (pages(keys), pages(values)), return_lse=True)
    return AttentionState(out, lse * _LN2)


def grouped(query: torch.Tensor, survivors: Survivors) -> torch.Tensor:
    """Queries [batch, heads, head_dim] as [rows, group, head_dim]."""
    return query.view(survivors.seqlens.shape[0], -1, query.shape[-1])


def _library(module: str, name: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DeviceError(f"ghostkv.gpu.emit: {name} cannot be imported here: {error}") from error
