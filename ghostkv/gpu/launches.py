"""Launches of the kernels of a decode step, in their order; nothing here waits for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ghostkv.files.errors import ConfigError
from ghostkv.gpu.configs import KernelConfig, architecture_of, config_of
from ghostkv.gpu.errors import DeviceError
from ghostkv.gpu.layout import CHUNK_KEYS, COLUMNS, DeviceFrames, DeviceRecords
from ghostkv.gpu.workspace import DecodeWorkspace

_LOG2E = 1.4426950408889634
# Bytes of code from which on a key's bytes fill the terms of a product; shorter ones are read as words of 4 bytes.
_LEAST_BYTES = 16


def kernels():
    """The modules of kernels.

    Raises
    ------
    DeviceError
        Triton is not installed, or is neither given a GPU nor told to interpret.
    """
    try:
        import triton

        from ghostkv.gpu import kernels, row_kernels
    except ModuleNotFoundError as error:
        raise DeviceError(
            "ghostkv.gpu: kernels are written in Triton, which is not installed here.\n"
            "  Install: pip install 'ghostkv[gpu]'"
        ) from error
    if not triton.knobs.runtime.interpret and not torch.cuda.is_available():
        raise DeviceError(
            "ghostkv.gpu: torch finds no CUDA device here. Kernels run on one, or in Triton's interpreter on tensors of the CPU.\n"
            "  Set before Python starts: TRITON_INTERPRET=1"
        )
    return kernels, row_kernels


@dataclass(frozen=True)
class Step:
    """Sizes of a step that kernels are given, and the config for them."""

    rows: int
    kv_heads: int
    group: int
    dim: int
    tokens: int
    config: KernelConfig

    @classmethod
    def of(cls, heads: int, keys: torch.Tensor, code_bytes: int) -> Step:
        """For so many query heads over a cache [batch, kv_heads, tokens, head_dim].

        Raises
        ------
        ConfigError
            Kernels do not take such a cache or such heads.
        """
        batch, kv_heads, tokens, dim = keys.shape
        group = heads // kv_heads
        if not keys.is_contiguous() or heads % kv_heads or keys.dtype not in (torch.float16, torch.bfloat16):
            raise ConfigError(
                f"ghostkv.gpu: {heads} heads over a cache {list(keys.shape)} of {keys.dtype}. Accepted: a contiguous cache "
                "[batch, kv_heads, tokens, head_dim] of float16 or bfloat16, heads a multiple of kv_heads"
            )
        if group > COLUMNS or not 16 <= dim <= 256 or dim % 16:
            raise ConfigError(
                f"ghostkv.gpu: groups of {group} heads, head_dim {dim}. "
                f"Accepted: groups of 1 to {COLUMNS}, head_dim 16 to 256 in steps of 16"
            )
        if keys.numel() // dim >= 1 << 31:
            raise ConfigError(
                f"ghostkv.gpu: a cache of {keys.numel() // dim} rows. Accepted: fewer than 2^31, as page tables are of int32"
            )
        config = config_of(architecture_of(keys.device), code_bytes, group, dim)
        return cls(batch * kv_heads, kv_heads, group, dim, tokens, config)

    @property
    def wide(self) -> int:
        """head_dim as a power of 2."""
        return 1 << (self.dim - 1).bit_length()


def write(
    step: Step,
    keys: torch.Tensor,
    values: torch.Tensor,
    frames: DeviceFrames,
    records: DeviceRecords,
    sinks: int,
    hot: int,
    start: torch.Tensor,
    length: torch.Tensor,
    blocks: int,
    is_step: bool,
) -> None:
    """Records of up to so many blocks of keys a row; a step of decoding has one, and brings sums of V up to date."""
    config = step.config
    launches = kernels()[1]
    launches.write_records[(blocks, step.rows)](
        keys, values, frames.mean, frames.encoder, frames.start, frames.top, frames.shift, frames.metric, frames.rebuild,
        frames.rebuilt, frames.slack, start, length, records.codes, records.rho, records.value_sum, records.written,
        records.keys, step.tokens, sinks, hot, step.kv_heads, DIM=step.dim, WIDE=step.wide, BYTES=frames.code_bytes,
        PARTS=frames.parts, KEYS=config.write_keys, SLICE=min(config.write_slice, step.wide), STEP=is_step,
        num_warps=config.write_warps,
    )  # fmt: skip


def find(
    step: Step,
    query: torch.Tensor,
    keys: torch.Tensor,
    frames: list[torch.Tensor],
    records: list[torch.Tensor],
    theta: torch.Tensor,
    start: torch.Tensor,
    length: torch.Tensor,
    sinks: int,
    hot: int,
    scale: float,
    softcap: float,
    ws: DecodeWorkspace,
) -> None:
    """Survivors of a step, left in the workspace.

    Parameters
    ----------
    frames, records : list of Tensor
        What `query_tensors` and `record_tensors` take of them.
    """
    launches = kernels()[0]
    offset, decoder, place, middle = frames
    codes, rho, value_sum, written = records
    room, code_bytes, terms = codes.shape[2], codes.shape[3], decoder.shape[1]
    if room < step.tokens or ws.page_table.shape != (step.rows, step.tokens):
        raise ConfigError(
            f"ghostkv.gpu: records for {room} positions and a workspace of {list(ws.page_table.shape)} for a cache of "
            f"{step.rows} rows and {step.tokens} positions. Make both for the whole cache"
        )
    config, chunks, cap = step.config, room // CHUNK_KEYS, softcap * _LOG2E
    words = codes if code_bytes >= _LEAST_BYTES else codes.view(torch.int32)
    span = (start, length, written)

    def cut(keys: int, warps: int) -> dict:
        return {
            "BYTES": code_bytes, "PARTS": terms // code_bytes, "KEYS": keys, "STEPS": CHUNK_KEYS // keys, "CAP": cap,
            "num_warps": warps,
        }  # fmt: skip

    launches.prepare[(step.group, step.rows)](
        query, keys, offset, decoder, place, middle, *span, ws.weights, ws.unit, ws.bias, ws.known,
        step.tokens, sinks, hot, scale, step.kv_heads, GROUP=step.group, DIM=step.dim, WIDE=step.wide, TERMS=terms,
        SLICE=min(config.query_slice, step.wide), ROWS=config.known_rows, CAP=cap,
    )  # fmt: skip
    launches.scan[(chunks, step.rows)](
        words, ws.weights, ws.unit, ws.bias, ws.known, *span, ws.chunk_lse,
        room, sinks, hot, step.kv_heads, **cut(config.scan_keys, config.scan_warps),
    )  # fmt: skip
    launches.select[(chunks, step.rows)](
        words, rho, ws.weights, ws.unit, ws.bias, ws.known, ws.chunk_lse, theta, *span, ws.flags, ws.counts, ws.left,
        room, sinks, hot, step.kv_heads, GROUP=step.group, **cut(config.select_keys, config.select_warps),
    )  # fmt: skip
    launches.emit[(chunks, step.rows)](
        ws.flags, ws.counts, ws.left, ws.chunk_lse, ws.known, value_sum, *span,
        ws.page_table, ws.seqlens, ws.tail_value, ws.tail_lse, ws.traffic, room, step.tokens, sinks, hot, step.kv_heads,
        KEYS=CHUNK_KEYS, CHUNKS=1 << (chunks - 1).bit_length(), DIM=step.dim, WIDE=step.wide,
    )  # fmt: skip


def attend(
    step: Step,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    softcap: float,
    compensate: bool,
    ws: DecodeWorkspace,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over the survivors that lie in the workspace, and their tail."""
    launches, config = kernels()[1], step.config
    out = torch.empty_like(query)
    lse = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)
    splits = ws.part_lse.shape[1]
    launches.attend[(splits, step.rows)](
        query, keys, values, ws.page_table, ws.seqlens, ws.part_out, ws.part_lse, step.tokens, scale,
        GROUP=step.group, DIM=step.dim, WIDE=step.wide, ROWS=config.attend_rows, CAP=softcap * _LOG2E,
        STAGES=config.attend_stages, EXACT=config.exact, num_warps=config.attend_warps,
    )  # fmt: skip
    launches.merge[(step.group, step.rows)](
        ws.part_out, ws.part_lse, ws.tail_value, ws.tail_lse, out, lse,
        GROUP=step.group, DIM=step.dim, WIDE=step.wide, SPLITS=splits, TAIL=compensate,
    )  # fmt: skip
    return out, lse
