"""A decode step of one layer on the device: records written, survivors found, attended to and merged.

Lengths lie on the device and no call waits for it, so that steps can be captured in a CUDA graph.

Tensors on a CUDA device run compiled kernels. Tensors on the CPU run in Triton's interpreter, where ``TRITON_INTERPRET=1`` was
set before triton was imported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ghostkv.gpu import launches
from ghostkv.gpu.layout import DeviceFrames, DeviceRecords, DeviceRule
from ghostkv.gpu.workspace import DecodeWorkspace, Survivors

# Positions whose V are summed at once in float32.
_SUMMED = 8192


def write_records(
    keys: torch.Tensor,
    values: torch.Tensor,
    frames: DeviceFrames,
    records: DeviceRecords,
    rule: DeviceRule,
    start: torch.Tensor,
    length: torch.Tensor,
) -> None:
    """Write records of the keys that have left the hot window since the last call: a step of decoding.

    What one launch does not hold, 16 keys a row, stays in the hot window until the next one.

    Parameters
    ----------
    keys, values : Tensor of float16 or bfloat16, shape [batch, kv_heads, tokens, head_dim]
    start, length : Tensor of int32, shape [batch]
        First position that is no padding, and the one after the last. Lengths grow from call to call.
    """
    step = launches.Step.of(keys.shape[1], keys, frames.code_bytes)
    launches.write(step, keys, values, frames, records, rule.sinks, rule.hot, start, length, 1, True)


def write_prompt(
    keys: torch.Tensor,
    values: torch.Tensor,
    frames: DeviceFrames,
    records: DeviceRecords,
    rule: DeviceRule,
    start: torch.Tensor,
    length: torch.Tensor,
) -> None:
    """Write the records of all cold keys anew, however many: after a prompt. Parameters as in `write_records`."""
    step = launches.Step.of(keys.shape[1], keys, frames.code_bytes)
    records.written.zero_()
    blocks = -(-keys.shape[2] // step.config.write_keys)
    launches.write(step, keys, values, frames, records, rule.sinks, rule.hot, start, length, blocks, False)
    low = torch.minimum(start + rule.sinks, length)
    high = torch.maximum(length - rule.hot, low)
    records.value_sum.zero_()
    for first in range(0, keys.shape[2], _SUMMED):
        some = values[:, :, first : first + _SUMMED]
        at = first + torch.arange(some.shape[2], device=keys.device)
        cold = (at >= low[:, None]) & (at < high[:, None])
        records.value_sum.add_(torch.where(cold[:, None, :, None], some, 0).sum(2, dtype=torch.float32))
    records.written.copy_(high[:, None].expand_as(records.written))


def select_survivors(
    query: torch.Tensor,
    keys: torch.Tensor,
    frames: DeviceFrames,
    records: DeviceRecords,
    rule: DeviceRule,
    start: torch.Tensor,
    length: torch.Tensor,
    workspace: DecodeWorkspace,
) -> Survivors:
    """Which rows of the cache a step reads.

    Parameters
    ----------
    query : Tensor, shape [batch, heads, head_dim]
        Of the cache's type, one new token a sequence.
    keys : Tensor, shape [batch, kv_heads, tokens, head_dim]
        Sinks and hot window are scored exactly.
    start, length : Tensor of int32, shape [batch]

    Returns
    -------
    Survivors
        In the workspace: the next step overwrites them.
    """
    step = launches.Step.of(query.shape[1], keys, frames.code_bytes)
    launches.find(
        step, query.contiguous(), keys, frames.of_queries(), records.tensors(), rule.theta, start, length,
        rule.sinks, rule.hot, rule.scale, rule.softcap, workspace,
    )  # fmt: skip
    return workspace.survivors


def attend_survivors(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    frames: DeviceFrames,
    rule: DeviceRule,
    workspace: DecodeWorkspace,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over the survivors that lie in a workspace, and over their tail where the rule compensates.

    Returns
    -------
    out : Tensor, shape of `query`
    lse : Tensor of float32, shape [batch, heads]
        Natural log-sum-exp of all that is in `out`.
    """
    step = launches.Step.of(query.shape[1], keys, frames.code_bytes)
    return launches.attend(
        step, query.contiguous(), keys, values, rule.scale, rule.softcap, rule.compensate, workspace
    )


@torch.library.custom_op("ghostkv::decode", mutates_args=("workspace",))
def decode_op(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    frames: Sequence[torch.Tensor],
    records: Sequence[torch.Tensor],
    theta: torch.Tensor,
    start: torch.Tensor,
    length: torch.Tensor,
    workspace: Sequence[torch.Tensor],
    sinks: int,
    hot: int,
    scale: float,
    softcap: float,
    compensate: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`decode` as one operator of torch, with lists of tensors for what it reads and writes."""
    query, room = query.contiguous(), DecodeWorkspace(*workspace)
    step = launches.Step.of(query.shape[1], keys, records[0].shape[3])
    launches.find(
        step, query, keys, list(frames), list(records), theta, start, length, sinks, hot, scale, softcap, room
    )
    return launches.attend(step, query, keys, values, scale, softcap, compensate, room)


@decode_op.register_fake
def _(
    query,
    keys,
    values,
    frames,
    records,
    theta,
    start,
    length,
    workspace,
    sinks,
    hot,
    scale,
    softcap,
    compensate,
):
    return query.new_empty(query.shape), query.new_empty(query.shape[:2], dtype=torch.float32)


def decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    frames: DeviceFrames,
    records: DeviceRecords,
    rule: DeviceRule,
    start: torch.Tensor,
    length: torch.Tensor,
    workspace: DecodeWorkspace,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`select_survivors` and `attend_survivors` as one operator, ``torch.ops.ghostkv.decode``: six launches and no wait."""
    return torch.ops.ghostkv.decode(
        query, keys, values, frames.of_queries(), records.tensors(), rule.theta, start, length, workspace.tensors(),
        rule.sinks, rule.hot, rule.scale, rule.softcap, rule.compensate,
    )  # fmt: skip
