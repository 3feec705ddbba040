"""What a decode step on a GPU must give, in plain torch and float64: the oracle of the kernels.

It reads the same records by the same rule and knows nothing of parts, chunks or page tables. Survivors are those of the packed
kernel of the CPU (`packed_attention`): both round a query's weights to int8 in one unit a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ghostkv.codecs import Codec
from ghostkv.codecs.field_code import row_widths
from ghostkv.gpu.layout import DeviceRecords, DeviceRule, unpack_fields

_LARGEST = 127


@dataclass(frozen=True)
class ReferenceRow:
    """One KV head of one sequence."""

    survivors: torch.Tensor  # int64; cold positions that are read, ascending
    read: torch.Tensor  # int64; all positions that are read, ascending
    above: (
        torch.Tensor
    )  # float64 [cold keys]; by how much the best head's estimate passes its threshold, in nats
    out: torch.Tensor  # float64 [group, head_dim]
    lse: torch.Tensor  # float64 [group]; natural log, of what was read and of the tail
    tail_value: torch.Tensor  # float64 [head_dim]
    tail_lse: torch.Tensor  # float64 [group]


def fold(query: torch.Tensor, codec: Codec) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A group's queries as records see them: unrounded weights in units [group, fields], units [group], offsets [group]."""
    quantiser = codec.quantiser_
    query = query.double()
    level = torch.from_numpy(codec.decoder_ * quantiser.step)
    weights = query @ level
    most = weights.abs().amax(1)
    unit = torch.where(most > 0, most / _LARGEST, torch.ones_like(most))
    offset = query @ torch.from_numpy(codec.mean_ + codec.decoder_ @ quantiser.centre)
    return weights / unit[:, None], unit, offset


def estimates(query: torch.Tensor, codec: Codec, codes: torch.Tensor, rule: DeviceRule) -> torch.Tensor:
    """Scores as records show them to rounded queries, float64 [group, keys]."""
    weights, unit, offset = fold(query, codec)
    levels = unpack_fields(codes, row_widths(codec.quantiser_.bits)).double()[:, : weights.shape[1]]
    middle = torch.from_numpy(((1 << codec.quantiser_.bits) - 1) / 2)
    sums = torch.round(weights) @ (levels - middle).T
    return capped((offset[:, None] + unit[:, None] * sums) * rule.scale, rule.softcap)


def capped(scores: torch.Tensor, softcap: float) -> torch.Tensor:
    """Scores under a soft cap; 0 is none."""
    return softcap * torch.tanh(scores / softcap) if softcap else scores


def reference_row(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    codec: Codec,
    codes: torch.Tensor,
    rho: torch.Tensor,
    rule: DeviceRule,
    theta: torch.Tensor,
    start: int,
    length: int,
    written: int,
) -> ReferenceRow:
    """A decode step of one KV head of one sequence.

    Parameters
    ----------
    query : Tensor, shape [group, head_dim]
    keys, values : Tensor, shape [tokens, head_dim]
    codes, rho : Tensor of uint8, shapes [tokens or more, code_bytes] and [tokens or more]
    theta : Tensor, shape [group]
    start, length, written : int
        First position that is no padding, the one after the last, and the one after the last that has a record.
    """
    low = min(start + rule.sinks, length)
    high = max(min(written, length - rule.hot), low)
    exact = capped(query.double() @ keys[:length].double().T * rule.scale, rule.softcap)
    cold, visible = torch.zeros(length, dtype=torch.bool), torch.ones(length, dtype=torch.bool)
    cold[low:high], visible[:start] = True, False
    seen = torch.full_like(exact, -torch.inf)
    seen[:, low:high] = estimates(query, codec, codes[low:high], rule)
    exact = torch.where(visible, exact, -torch.inf)
    lse = torch.logsumexp(torch.where(cold, seen, exact), 1)
    above = (seen[:, low:high] - lse[:, None] - theta.double()[:, None]).amax(0)
    wanted = torch.zeros(length, dtype=torch.bool)
    wanted[low:high] = (above >= 0) | (rho[low:high] == 255)
    read = visible & (~cold | wanted)
    left = torch.where(cold & ~wanted, seen, -torch.inf)
    tail_lse = torch.logsumexp(left, 1)
    tail_value = values[low:high].double().sum(0) / max(high - low, 1)
    scores = torch.where(read, exact, -torch.inf)
    whole = torch.logsumexp(scores, 1)
    if rule.compensate:
        whole = torch.logaddexp(whole, tail_lse)
    out = torch.exp(scores - whole[:, None]).nan_to_num(0.0) @ values[:length].double()
    if rule.compensate:
        out += torch.exp(tail_lse - whole).nan_to_num(0.0)[:, None] * tail_value
    return ReferenceRow(
        torch.nonzero(cold & wanted).flatten(),
        torch.nonzero(read).flatten(),
        above,
        out,
        whole,
        tail_value,
        tail_lse,
    )


def reference_step(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    codecs: Sequence[Codec],
    records: DeviceRecords,
    rule: DeviceRule,
    start: torch.Tensor,
    length: torch.Tensor,
) -> list[ReferenceRow]:
    """A decode step of a batch: rows by sequence, then KV head; all tensors on the CPU.

    Parameters
    ----------
    query : Tensor, shape [batch, heads, head_dim]
    keys, values : Tensor, shape [batch, kv_heads, tokens, head_dim]
    codecs
        One for each KV head.
    """
    kv_heads = keys.shape[1]
    group = query.shape[1] // kv_heads
    rows = []
    for batch, kv in np.ndindex(keys.shape[0], kv_heads):
        heads = slice(kv * group, (kv + 1) * group)
        rows.append(
            reference_row(
                query[batch, heads], keys[batch, kv], values[batch, kv], codecs[kv], records.codes[batch, kv],
                records.rho[batch, kv], rule, rule.theta[heads], int(start[batch]), int(length[batch]),
                int(records.written[batch, kv]),
            )
        )  # fmt: skip
    return rows
