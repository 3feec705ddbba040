"""What the layers of a step share: which tokens decode, which are prefilled, and where their keys lie."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from vllm import _custom_ops as ops
from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadataBuilder

from ghostkv.gpu.layout import DeviceFrames, DeviceRecords
from ghostkv.gpu.workspace import DecodeWorkspace


@dataclass
class Decodes:
    """Sequences with one new token; positions are those of `blocks`, padded to whole blocks."""

    tokens: torch.Tensor  # int64 [batch]; rows of the query
    blocks: torch.Tensor  # int64 [batch, width]; physical blocks
    start: torch.Tensor  # int32 [batch]; 0: vLLM pads nothing on the left
    length: torch.Tensor  # int32 [batch]
    # Layers run one after another and share buffers; workspaces by the number of terms of a score
    keys: list[torch.Tensor] = field(default_factory=list)
    workspaces: dict[int, DecodeWorkspace] = field(default_factory=dict)

    def workspace(self, frames: DeviceFrames, records: DeviceRecords, heads: int, tokens: int):
        """Buffers of a layer's step."""
        terms = frames.decoder.shape[1]
        if terms not in self.workspaces:
            self.workspaces[terms] = DecodeWorkspace.of(frames, records, heads, tokens)
        return self.workspaces[terms]

    def room_for_keys(self, like: torch.Tensor, kv_heads: int, tokens: int, dim: int) -> torch.Tensor:
        """Keys by position, of which sinks and hot windows are filled in: [batch, kv_heads, tokens, head_dim]."""
        if not self.keys:
            self.keys.append(like.new_empty(len(self.tokens), kv_heads, tokens, dim))
        return self.keys[0]


@dataclass
class Prefills:
    """Sequences with more new tokens than one; vLLM's kernel attends to a copy of their keys in its own order."""

    tokens: torch.Tensor  # int64 [new tokens]; rows of the query
    slots: torch.Tensor  # int64 [all their tokens]; in the cache
    copies: torch.Tensor  # int64 [all their tokens]; in the copy
    blocks: torch.Tensor  # int32 [sequences, width]; of the copy
    block_count: int
    query_start: torch.Tensor  # int32 [sequences + 1]
    length: torch.Tensor  # int32 [sequences]
    schedule: torch.Tensor  # vLLM's plan of the work


@dataclass
class GhostMetadata:
    """A step of a batch."""

    num_actual_tokens: int
    decodes: Decodes | None
    prefills: Prefills | None


class GhostMetadataBuilder(CPUAttentionMetadataBuilder):
    """Splits a batch into what decodes and what is prefilled."""

    def build(self, common_prefix_len, common_attn_metadata, fast_build=False) -> GhostMetadata:
        common, size = common_attn_metadata, self.block_size
        starts = common.query_start_loc[: common.num_reqs + 1].long()
        lengths = common.seq_lens[: common.num_reqs].long()
        counts, table = starts.diff(), common.block_table_tensor[: common.num_reqs].long()
        decodes = prefills = None
        one = torch.nonzero(counts == 1).flatten()
        if len(one):
            width = -(-int(lengths[one].max()) // size)
            length = lengths[one].int()
            decodes = Decodes(starts[one], table[one, :width], torch.zeros_like(length), length)
        more = torch.nonzero(counts > 1).flatten()
        if len(more):
            prefills = self._prefills(starts[more], counts[more], lengths[more], table[more])
        return GhostMetadata(common.num_actual_tokens, decodes, prefills)

    def _prefills(self, starts, counts, lengths, table) -> Prefills:
        size, widths = self.block_size, -(-lengths // self.block_size)
        first = widths.cumsum(0) - widths
        tokens = torch.cat([torch.arange(n) + start for start, n in zip(starts, counts, strict=True)])
        spots = [torch.arange(n) for n in lengths]
        slots = [row[at // size] * size + at % size for row, at in zip(table, spots, strict=True)]
        copies = torch.cat([at + begin * size for at, begin in zip(spots, first, strict=True)])
        blocks = first[:, None] + torch.arange(int(widths.max()))[None, :]
        query_start = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        schedule = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(starts), num_heads=self.num_heads, num_kv_heads=self.num_kv_heads, head_dim=self.head_dim,
            seq_lens=lengths.int(), dtype=self.dtype, query_start_loc=query_start, causal=True, sliding_window_size=-1,
            isa=self.isa, enable_kv_split=False,
        )  # fmt: skip
        return Prefills(
            tokens, torch.cat(slots), copies, blocks.clamp(max=int(widths.sum()) - 1).int(), int(widths.sum()),
            query_start, lengths.int(), schedule,
        )  # fmt: skip
