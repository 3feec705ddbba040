"""An attention backend that keeps ghost records by physical slot, and reads the survivors of a decode step.

The cache is vLLM's, [blocks, kv_heads, block_size, 2 * head_dim], with a key and its value side by side in one row. Records
lie beside it in the same order. A token's record is written with the token; which tokens are cold is decided when they are read.
"""

from __future__ import annotations

import torch
from vllm import _custom_ops as ops
from vllm.config import get_current_vllm_config
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionBackendImpl

from ghostkv.files.errors import ConfigError
from ghostkv.gpu import launches
from ghostkv.gpu.counters import DeviceTraffic
from ghostkv.gpu.decode import select_survivors, write_prompt
from ghostkv.gpu.layout import DeviceFrames, DeviceRecords, DeviceRule
from ghostkv_vllm.batch import Decodes, GhostMetadata, GhostMetadataBuilder, Prefills
from ghostkv_vllm.options import GhostOptions


class GhostAttentionBackend(CPUAttentionBackend):
    """Where vLLM finds the parts."""

    supported_dtypes = [torch.float16, torch.bfloat16]
    supported_kv_cache_dtypes = ["auto"]

    @classmethod
    def supports_non_causal(cls) -> bool:
        return False

    @classmethod
    def supports_sliding_window(cls) -> bool:
        return False

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        return attn_type == AttentionType.DECODER

    @staticmethod
    def get_impl_cls() -> type[GhostAttention]:
        return GhostAttention

    @staticmethod
    def get_builder_cls() -> type[GhostMetadataBuilder]:
        return GhostMetadataBuilder


class SlotRecords:
    """Records of a layer by physical slot, and the sum of V of each block."""

    def __init__(self, cache: torch.Tensor, frames: DeviceFrames):
        blocks, kv_heads, size, wide = cache.shape
        self.frames = frames
        self.codes = cache.new_zeros(blocks, kv_heads, size, frames.code_bytes, dtype=torch.uint8)
        self.rho = cache.new_zeros(blocks, kv_heads, size, dtype=torch.uint8)
        self.value_sum = cache.new_zeros(blocks, kv_heads, wide // 2, dtype=torch.float32)

    def write(self, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor, rule: DeviceRule) -> None:
        """Records of tokens [tokens, kv_heads, head_dim]. Slots of a block are written in order, from its first one on."""
        tokens, kv_heads, dim = key.shape
        block, offset = slots // self.rho.shape[2], slots % self.rho.shape[2]
        made = DeviceRecords.empty(1, kv_heads, tokens, self.frames.code_bytes, dim, key.device)
        # All of them are cold to the kernel that writes.
        every = DeviceRule(rule.theta, 0, 0, rule.scale)
        start = torch.zeros(1, dtype=torch.int32, device=key.device)
        rows = [one.transpose(0, 1)[None].contiguous() for one in (key, value)]
        write_prompt(*rows, self.frames, made, every, start, start + tokens)
        self.codes[block, :, offset] = made.codes[0, :, :tokens].transpose(0, 1)
        self.rho[block, :, offset] = made.rho[0, :, :tokens].transpose(0, 1)
        self.value_sum[block[offset == 0]] = 0
        self.value_sum.index_add_(0, block, value.float())

    def of_sequences(self, blocks: torch.Tensor, length: torch.Tensor) -> DeviceRecords:
        """A copy by position of the records of sequences that lie in these blocks, [batch, width]; sums of V are of all tokens."""
        batch, width = blocks.shape
        kv_heads, size, dim = self.rho.shape[1], self.rho.shape[2], self.value_sum.shape[2]
        found = DeviceRecords.empty(batch, kv_heads, width * size, self.frames.code_bytes, dim, blocks.device)
        for mine, theirs in ((self.codes, found.codes), (self.rho, found.rho)):
            theirs[:, :, : width * size] = mine[blocks].transpose(1, 2).flatten(2, 3)
        there = torch.arange(width, device=blocks.device) < -(-length // size)[:, None]
        found.value_sum.copy_(torch.where(there[..., None, None], self.value_sum[blocks], 0).sum(1))
        found.written.copy_(length[:, None].expand_as(found.written))
        return found


class GhostAttention(CPUAttentionBackendImpl):
    """Attention of one layer: prefill by vLLM's kernel, decoding over survivors."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.options = GhostOptions.of(get_current_vllm_config())
        if self.alibi_slopes is not None or self.sinks is not None or self.sliding_window != -1:
            raise ConfigError(
                "ghostkv_vllm: a model with ALiBi, sink logits or a sliding window. Without this backend: VLLM_PLUGINS=''"
            )
        self.records: SlotRecords | None = None
        self.rule: DeviceRule | None = None
        self.counts = torch.zeros(1, 4, dtype=torch.int64)

    def traffic(self) -> DeviceTraffic:
        """What this layer's decode steps moved."""
        row_bytes = 2 * self.head_size * 2
        return DeviceTraffic(self.counts, self.options.code_bytes, row_bytes)

    def do_kv_cache_update(self, layer, key, value, kv_cache, slot_mapping) -> None:
        if self.records is None:
            self._begin(layer, kv_cache)
        slots = slot_mapping[: len(key)].long()
        key, value, slots = (one[: len(slots)][slots >= 0] for one in (key, value, slots))
        size = kv_cache.shape[2]
        kv_cache[slots // size, :, slots % size] = torch.cat([key, value], -1)
        if len(slots):
            self.records.write(key, value, slots, self.rule)

    def _begin(self, layer, kv_cache: torch.Tensor) -> None:
        if not kv_cache.is_contiguous() or 2 * kv_cache.numel() // kv_cache.shape[3] >= 1 << 31:
            raise ConfigError(
                f"ghostkv_vllm: a cache {list(kv_cache.shape)} of strides {kv_cache.stride()}. "
                "Accepted: a contiguous one of fewer than 2^30 rows, as page tables are of int32"
            )
        number = extract_layer_index(layer.layer_name)
        frames = self.options.frames(number, self.num_kv_heads, kv_cache.device)
        self.rule = self.options.rule(
            number, self.num_heads, self.scale, self.logits_soft_cap, kv_cache.device
        )
        self.records = SlotRecords(kv_cache, frames)

    def forward(
        self,
        layer,
        query,
        key,
        value,
        kv_cache,
        attn_metadata: GhostMetadata | None,
        output,
        output_scale=None,
        output_block_scale=None,
    ) -> torch.Tensor:
        # For warming up
        if attn_metadata is None:
            return output
        if attn_metadata.prefills is not None:
            self._prefill(layer, query, kv_cache, attn_metadata.prefills, output)
        if attn_metadata.decodes is not None:
            self._decode(query, kv_cache, attn_metadata.decodes, output)
        return output

    def _prefill(self, layer, query, kv_cache, part: Prefills, output) -> None:
        """By vLLM's kernel, over a copy of the keys in the order that it wants."""
        _, kv_heads, size, wide = kv_cache.shape
        rows = kv_cache[part.slots // size, :, part.slots % size]
        copy = kv_cache.new_zeros(part.block_count, kv_heads, 2 * size, wide // 2)
        keys, values = copy.chunk(2, dim=2)
        ops.cpu_attn_reshape_and_cache(
            *(one.contiguous() for one in rows.chunk(2, -1)), keys, values, part.copies, layer.isa
        )
        out = torch.empty_like(query[part.tokens])
        ops.cpu_attention_with_kv_cache(
            query=query[part.tokens], key_cache=keys, value_cache=values, output=out,
            query_start_loc=part.query_start, seq_lens=part.length, scale=self.scale, causal=True, alibi_slopes=None,
            sliding_window=-1, block_table=part.blocks, softcap=self.logits_soft_cap, scheduler_metadata=part.schedule,
            s_aux=None,
        )  # fmt: skip
        output[part.tokens] = out

    def _decode(self, query, kv_cache, part: Decodes, output) -> None:
        """Survivors of each KV head, found in records by position and read where they lie in the cache."""
        _, kv_heads, size, wide = kv_cache.shape
        tokens, frames, rule = part.blocks.shape[1] * size, self.records.frames, self.rule
        records = self.records.of_sequences(part.blocks, part.length)
        keys = part.room_for_keys(kv_cache, kv_heads, tokens, wide // 2)
        self._exact_rows(kv_cache, part, records, keys)
        mine = query[part.tokens].contiguous()
        room = part.workspace(frames, records, self.num_heads, tokens)
        room.traffic.zero_()
        found = select_survivors(mine, keys, frames, records, rule, part.start, part.length, room)
        self.counts += room.traffic.sum(0).cpu()
        found.page_table.copy_(physical_rows(found.page_table, part.blocks, kv_heads, size))
        # A row has a key and then its value: the value of a key lies one head_dim behind it.
        rows = kv_cache.view(-1, wide // 2)
        step = launches.Step.of(self.num_heads, keys, frames.code_bytes)
        out, _ = launches.attend(step, mine, rows, rows[1:], rule.scale, rule.softcap, rule.compensate, room)
        output[part.tokens] = out.view(len(mine), *output.shape[1:])

    def _exact_rows(self, kv_cache, part: Decodes, records: DeviceRecords, keys: torch.Tensor) -> None:
        """Put keys of sinks and hot windows where they are looked for, and take their V off the sums, which are of cold keys."""
        size, rule = kv_cache.shape[2], self.rule
        for number, length in enumerate(part.length.tolist()):
            low = min(rule.sinks, length)
            high = max(length - rule.hot, low)
            at = torch.cat([torch.arange(low), torch.arange(high, length)])
            rows = kv_cache[part.blocks[number, at // size], :, at % size].transpose(0, 1)
            key, value = rows.chunk(2, -1)
            keys[number, :, at] = key
            records.value_sum[number] -= value.sum(1, dtype=torch.float32)


def physical_rows(page_table: torch.Tensor, blocks: torch.Tensor, kv_heads: int, size: int) -> torch.Tensor:
    """Rows of head_dim of the cache where the keys of a page table by position lie; int32, of the table's shape."""
    rows, tokens = page_table.shape
    row = torch.arange(rows, device=page_table.device)[:, None]
    # Entries beyond a row's count mean nothing; they must lie in the table all the same.
    at = (page_table.long() - row * tokens).clamp(0, tokens - 1)
    block = blocks[row // kv_heads, at // size]
    return (2 * ((block * kv_heads + row % kv_heads) * size + at % size)).int()
