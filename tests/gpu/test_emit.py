"""Lists of survivors for other kernels, without a kernel of ours: what libraries are handed, and how parts are merged."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch

from ghostkv.gpu import emit
from ghostkv.gpu.workspace import Survivors
from tests.gpu.layers import drawn, worst_errors
from tests.gpu.paged import csr_lists, paged_attention, table_lists


@pytest.fixture(scope="module")
def step():
    """A layer, its reference, and the survivors that the reference found."""
    layer = drawn(6, 2, 2, 3, 64, 400, 16, softcap=20.0)
    wanted = layer.reference()
    rows, tokens = 4, 400
    table = torch.full((rows, tokens), -1, dtype=torch.int32)
    for row, one in enumerate(wanted):
        table[row, : len(one.read)] = row * tokens + one.read
    tails = torch.full((rows, 8), torch.nan)
    tails[:, :3] = torch.stack([one.tail_lse for one in wanted]) / math.log(2)
    found = Survivors(
        table,
        torch.tensor([len(one.read) for one in wanted], dtype=torch.int32),
        torch.stack([one.tail_value for one in wanted]).float(),
        tails,
    )
    return layer, wanted, found


def test_lists_have_no_gaps(step):
    _, wanted, found = step
    lists = emit.to_csr(found)
    assert lists.indptr.dtype == lists.indices.dtype == torch.int32
    assert lists.indptr.tolist() == [0, *torch.cumsum(found.seqlens, 0).tolist()]
    for row, (rows, one) in enumerate(zip(csr_lists(lists), wanted, strict=True)):
        assert rows.tolist() == (one.read + row * 400).tolist()


def test_states_merge_as_parts_of_one_softmax():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 3, 40, generator=generator).double() * 4
    values = torch.randn(5, 40, 8, generator=generator).double()
    parts = [
        emit.AttentionState(
            torch.softmax(scores[..., some], 2) @ values[:, some], torch.logsumexp(scores[..., some], 2)
        )
        for some in (slice(0, 3), slice(3, 40))
    ]
    whole = emit.merge_states(*parts)
    assert torch.allclose(whole.out, torch.softmax(scores, 2) @ values, atol=1e-6)
    assert torch.allclose(whole.lse, torch.logsumexp(scores, 2))
    nothing = emit.AttentionState(torch.zeros(5, 3, 8), torch.full((5, 3), -torch.inf))
    assert torch.allclose(emit.merge_states(whole, nothing).out, whole.out, atol=1e-6)
    empty = emit.merge_states(nothing, nothing)
    assert empty.out.abs().max() == 0
    assert torch.isneginf(empty.lse).all()


def test_flash_attention_is_handed_pages_of_one_key(step, monkeypatch):
    layer, wanted, found = step
    seen = {}

    def flash_attn_with_kvcache(
        q,
        k_cache,
        v_cache,
        cache_seqlens,
        page_table,
        softmax_scale,
        softcap,
        num_splits,
        pack_gqa,
        return_softmax_lse,
    ):
        """As its source has it: q [batch, 1, heads, d], caches [pages, page, kv_heads, d]; lse natural, [batch, heads, 1]."""
        seen.update(q=q.shape, k=k_cache.shape, table=page_table.dtype, seqlens=cache_seqlens.dtype)
        assert (softmax_scale, softcap) == (layer.rule.scale, layer.rule.softcap)
        assert return_softmax_lse
        assert pack_gqa
        lists = [row[:count] for row, count in zip(page_table, cache_seqlens.tolist(), strict=True)]
        state = paged_attention(q[:, 0], k_cache, v_cache, lists, layer.rule)
        return state.out[:, None], state.lse[..., None]

    fake = SimpleNamespace(flash_attn_with_kvcache=flash_attn_with_kvcache)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", fake)
    state = emit.flash_attention_3(layer.query, layer.keys, layer.values, found, layer.rule)
    whole = emit.merge_states(state, emit.tail_state(found, 3))
    assert seen == {"q": (4, 1, 3, 64), "k": (1600, 1, 1, 64), "table": torch.int32, "seqlens": torch.int32}
    errors = worst_errors(layer, wanted, whole.out, whole.lse)
    assert max(errors.values()) < 1e-5


def test_flashinfer_is_handed_lists_and_answers_in_powers_of_two(step, monkeypatch):
    layer, wanted, found = step

    class BatchDecodeWithPagedKVCacheWrapper:
        def __init__(self, room, layout, use_tensor_cores):
            assert layout == "NHD"

        def plan(
            self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, q_data_type,
            kv_data_type, sm_scale, logits_soft_cap,
        ):  # fmt: skip
            assert (num_qo_heads, num_kv_heads, head_dim, page_size) == (3, 1, 64, 1)
            assert last_page_len.tolist() == [1] * 4
            assert (sm_scale, logits_soft_cap) == (layer.rule.scale, layer.rule.softcap)
            assert len(indices) == indptr[-1]
            self.lists = csr_lists(emit.PageLists(indptr, indices))

        def run(self, q, caches, return_lse):
            state = paged_attention(q, *caches, self.lists, layer.rule)
            return state.out, state.lse / math.log(2)

    fake = SimpleNamespace(BatchDecodeWithPagedKVCacheWrapper=BatchDecodeWithPagedKVCacheWrapper)
    monkeypatch.setitem(sys.modules, "flashinfer", fake)
    state = emit.flashinfer(layer.query, layer.keys, layer.values, found, layer.rule)
    plain = paged_attention(
        emit.grouped(layer.query, found), layer.keys, layer.values, table_lists(found), layer.rule
    )
    assert torch.allclose(state.lse, plain.lse)
    whole = emit.merge_states(state, emit.tail_state(found, 3))
    assert max(worst_errors(layer, wanted, whole.out, whole.lse).values()) < 1e-5
