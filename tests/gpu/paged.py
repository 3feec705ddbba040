"""Paged attention in plain torch: what a list of rows of the cache means."""

from __future__ import annotations

import torch

from ghostkv.gpu.emit import AttentionState, PageLists, pages
from ghostkv.gpu.layout import DeviceRule
from ghostkv.gpu.reference import capped
from ghostkv.gpu.workspace import Survivors


def table_lists(found: Survivors) -> list[torch.Tensor]:
    """Rows of the cache that each row's page table names."""
    return [table[:count] for table, count in zip(found.page_table, found.seqlens.tolist(), strict=True)]


def csr_lists(lists: PageLists) -> list[torch.Tensor]:
    """Rows of the cache that each part of a CSR list names."""
    ends = lists.indptr.tolist()
    return [lists.indices[first:last] for first, last in zip(ends[:-1], ends[1:], strict=True)]


def paged_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lists: list[torch.Tensor], rule: DeviceRule
) -> AttentionState:
    """Attention in float64 of queries [rows, group, head_dim], each row over the pages of its list."""
    outs, lses = [], []
    for one, rows in zip(query.double(), lists, strict=True):
        k, v = (pages(cache)[rows.long()].view(len(rows), -1).double() for cache in (keys, values))
        scores = capped(one @ k.T * rule.scale, rule.softcap)
        outs.append(torch.softmax(scores, 1) @ v)
        lses.append(torch.logsumexp(scores, 1))
    return AttentionState(torch.stack(outs), torch.stack(lses))
