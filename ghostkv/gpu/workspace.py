"""Buffers of a decode step on the device, and what a step leaves in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ghostkv.gpu.layout import CHUNK_KEYS, COLUMNS, DeviceFrames, DeviceRecords

# Splits of a row's survivors: programs that are wanted for each processor of the card, and the most of one row.
_PROGRAMS = 2
_MOST_SPLITS = 64
_TRAFFIC_COLUMNS = 4


@dataclass(frozen=True)
class Survivors:
    """What a step reads, a row for each sequence and KV head: row ``r`` of the cache is ``keys.view(-1, head_dim)[r]``."""

    page_table: torch.Tensor  # int32 [rows, tokens]; rows of the cache, by ascending position
    seqlens: torch.Tensor  # int32 [rows]; how many entries of `page_table` count
    # One more state of the softmax for what is not read
    tail_value: torch.Tensor  # float32 [rows, head_dim]
    tail_lse: torch.Tensor  # float32 [rows, 8]; base 2; columns beyond the group mean nothing


@dataclass(frozen=True)
class DecodeWorkspace:
    """Every buffer of a step, made once: addresses stay, as a captured graph wants them. Layers that run one after another share one."""

    weights: torch.Tensor  # float16 [rows, terms, 8]
    unit: torch.Tensor  # float32 [rows, 8]; so are the next two
    bias: torch.Tensor
    known: torch.Tensor  # log-sum-exp of sinks and hot window, base 2
    chunk_lse: torch.Tensor  # float32 [rows, chunks, 8]
    flags: torch.Tensor  # uint8 [rows, keys]
    counts: torch.Tensor  # int32 [rows, chunks]
    left: torch.Tensor  # float32 [rows, chunks, 8]; shares of the softmax that are not read
    page_table: torch.Tensor
    seqlens: torch.Tensor
    tail_value: torch.Tensor
    tail_lse: torch.Tensor
    part_out: torch.Tensor  # float32 [rows, splits, group, head_dim]
    part_lse: torch.Tensor  # float32 [rows, splits, group]
    traffic: torch.Tensor  # int64 [rows, 4]

    @classmethod
    def of(cls, frames: DeviceFrames, records: DeviceRecords, heads: int, tokens: int) -> DecodeWorkspace:
        """For `heads` query heads over a cache of `tokens` positions."""
        batch, kv_heads = records.written.shape
        rows, group, dim = batch * kv_heads, heads // kv_heads, frames.head_dim
        chunks, device = records.keys // CHUNK_KEYS, records.codes.device
        splits = _splits(rows, device)

        def made(dtype: torch.dtype, *shape: int, fill: float = 0) -> torch.Tensor:
            return torch.full(shape, fill, dtype=dtype, device=device)

        # Columns of no head: scores of minus infinity, which have no mass and pass no threshold.
        return cls(
            made(torch.float16, rows, frames.code_bytes * frames.parts, COLUMNS),
            made(torch.float32, rows, COLUMNS),
            made(torch.float32, rows, COLUMNS, fill=-torch.inf),
            made(torch.float32, rows, COLUMNS),
            made(torch.float32, rows, chunks, COLUMNS),
            made(torch.uint8, rows, records.keys),
            made(torch.int32, rows, chunks),
            made(torch.float32, rows, chunks, COLUMNS),
            made(torch.int32, rows, tokens),
            made(torch.int32, rows),
            made(torch.float32, rows, dim),
            made(torch.float32, rows, COLUMNS),
            made(torch.float32, rows, splits, group, dim),
            made(torch.float32, rows, splits, group),
            made(torch.int64, rows, _TRAFFIC_COLUMNS),
        )

    @property
    def survivors(self) -> Survivors:
        """Of the last step, until the next one."""
        return Survivors(self.page_table, self.seqlens, self.tail_value, self.tail_lse)

    def tensors(self) -> list[torch.Tensor]:
        """All buffers, in their order."""
        return list(vars(self).values())


def _splits(rows: int, device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    wanted = _PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count
    return min(1 << max(0, (wanted // rows).bit_length() - 1), _MOST_SPLITS)
