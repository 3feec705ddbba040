"""Random layers for the tests of `ghostkv.gpu`: keys of a falling spectrum about a mean, as those of models are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from ghostkv.codecs import Codec
from ghostkv.codecs.field_code import FieldCode
from ghostkv.gpu.layout import DeviceFrames, DeviceRecords, DeviceRule
from ghostkv.gpu.reference import ReferenceRow, reference_step
from ghostkv.gpu.workspace import DecodeWorkspace


@dataclass
class Layer:
    """A layer that is about to decode; `records` are written and `written` is where the hot window begins."""

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    codecs: list[Codec]
    frames: DeviceFrames
    records: DeviceRecords
    rule: DeviceRule
    start: torch.Tensor
    length: torch.Tensor
    workspace: DecodeWorkspace

    @property
    def state(self) -> tuple:
        """What functions of `decode` take last."""
        return self.frames, self.records, self.rule, self.start, self.length, self.workspace

    def reference(self) -> list[ReferenceRow]:
        """The step in float64."""
        return reference_step(
            self.query, self.keys, self.values, self.codecs, self.records, self.rule, self.start, self.length
        )


@cache
def fitted(head_dim: int, code_bytes: int, seed: int) -> tuple[np.ndarray, np.ndarray, Codec]:
    """Axes and mean that keys of a head are drawn with, and its codec."""
    rng = np.random.default_rng([head_dim, code_bytes, seed])
    axes = np.linalg.qr(rng.normal(size=(head_dim, head_dim)))[0] * np.arange(1.0, head_dim + 1) ** -0.5 * 3
    mean = rng.normal(size=head_dim)
    keys = rng.normal(size=(256, head_dim)) @ axes.T + mean
    return axes, mean, FieldCode(code_bytes).fit(keys, rng.normal(size=(64, head_dim)))


def drawn(
    seed: int,
    batch: int,
    kv_heads: int,
    group: int,
    head_dim: int,
    tokens: int,
    code_bytes: int,
    dtype: torch.dtype = torch.float16,
    sinks: int = 4,
    hot: int = 64,
    softcap: float = 0.0,
    compensate: bool = True,
    theta: float | None = None,
    start: list[int] | None = None,
    length: list[int] | None = None,
    device: str = "cpu",
) -> Layer:
    """A random layer; thetas, paddings and lengths are drawn where none are given."""
    rng = np.random.default_rng(seed)
    heads = [fitted(head_dim, code_bytes, kv) for kv in range(kv_heads)]
    made = [rng.normal(size=(batch, tokens, head_dim)) @ axes.T + mean for axes, mean, _ in heads]
    keys = torch.from_numpy(np.stack(made, 1)).to(dtype)
    values = torch.from_numpy(1.0 + rng.normal(size=keys.shape)).to(dtype)
    query = torch.from_numpy(rng.normal(size=(batch, kv_heads * group, head_dim))).to(dtype)
    thetas = -np.log(tokens) + rng.normal(2.0, 1.5, kv_heads * group)
    rule = DeviceRule(
        torch.tensor(thetas if theta is None else [theta] * len(thetas), dtype=torch.float32),
        sinks, hot, head_dim**-0.5, softcap, compensate,
    )  # fmt: skip
    first = rng.integers(0, 40, batch) * rng.integers(0, 2, batch) if start is None else start
    last = np.minimum(first + rng.integers(1, tokens, batch), tokens) if length is None else length
    records = DeviceRecords.empty(batch, kv_heads, tokens, code_bytes, head_dim)
    codecs = [codec for _, _, codec in heads]
    for b, kv in np.ndindex(batch, kv_heads):
        records.put(b, kv, 0, codecs[kv].encode(keys[b, kv].float().numpy()))
        # As little as a device that wrote them in `write_records` would have written.
        low = min(int(first[b]) + sinks, int(last[b]))
        high = max(int(last[b]) - hot, low)
        records.written[b, kv] = high
        records.value_sum[b, kv] = values[b, kv, low:high].float().sum(0)
    frames = DeviceFrames.of(codecs)
    place = [torch.as_tensor(np.asarray(one), dtype=torch.int32) for one in (first, last)]
    layer = Layer(query, keys, values, codecs, frames, records, rule, *place, None)
    moved = layer if device == "cpu" else on(layer, device)
    moved.workspace = DecodeWorkspace.of(moved.frames, moved.records, kv_heads * group, tokens)
    return moved


def on(layer: Layer, device: str) -> Layer:
    """A copy of a layer on a device, its workspace aside."""

    def moved(one):
        return type(one)(
            **{
                name: value.to(device) if isinstance(value, torch.Tensor) else value
                for name, value in vars(one).items()
            }
        )

    tensors = (layer.query.to(device), layer.keys.to(device), layer.values.to(device))
    parts = (moved(layer.frames), moved(layer.records), moved(layer.rule))
    return Layer(*tensors, layer.codecs, *parts, layer.start.to(device), layer.length.to(device), None)


def rows_read(layer: Layer) -> list[torch.Tensor]:
    """Positions that the last step read, for each sequence and KV head, as its page table has them."""
    tokens = layer.keys.shape[2]
    table, counts = layer.workspace.page_table.cpu(), layer.workspace.seqlens.tolist()
    return [table[row, :count].long() - row * tokens for row, count in enumerate(counts)]


def compared(layer: Layer, wanted: list[ReferenceRow], margin: float) -> dict[str, int]:
    """How many rows read other keys than the reference, keys whose best estimate lies within `margin` nats of its threshold aside."""
    found, result = rows_read(layer), {"rows": 0, "unequal": 0, "close": 0, "survivors": 0, "cold": 0}
    sinks = layer.rule.sinks
    for row, (mine, one) in enumerate(zip(found, wanted, strict=True)):
        batch = row // layer.keys.shape[1]
        low = min(int(layer.start[batch]) + sinks, int(layer.length[batch]))
        close = low + torch.nonzero(one.above.abs() < margin).flatten()
        strict = [positions[~torch.isin(positions, close)] for positions in (mine, one.read)]
        result["rows"] += 1
        result["unequal"] += not torch.equal(*strict) or bool((mine.diff() <= 0).any())
        result["close"] += len(close)
        result["survivors"] += len(one.survivors)
        result["cold"] += len(one.above)
    return result


def worst_errors(
    layer: Layer, wanted: list[ReferenceRow], out: torch.Tensor, lse: torch.Tensor
) -> dict[str, float]:
    """Largest relative error of a head's output, and of a log-sum-exp."""
    shape = (len(wanted), -1)
    outs = out.cpu().double().view(*shape, out.shape[-1])
    errors, gaps = [], []
    for mine, other, one in zip(outs, lse.cpu().double().view(shape), wanted, strict=True):
        errors.append((mine - one.out).norm(dim=1) / one.out.norm(dim=1))
        gaps.append((other - one.lse).abs())
    return {"out": float(torch.cat(errors).max()), "lse": float(torch.cat(gaps).max())}
