"""Generated layers on the device, with a wanted share of survivors, scattered or in runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ghostkv.codecs.field_code import FieldCode
from ghostkv.gpu.decode import decode, select_survivors, write_prompt
from ghostkv.gpu.layout import DeviceFrames, DeviceRecords, DeviceRule
from ghostkv.gpu.workspace import DecodeWorkspace

# Cold keys of a run where survivors are clustered.
RUN = 64
_CALIBRATION = 2048
_SEARCH = 14  # halvings of theta's range, in nats
_THETA = (-24.0, 0.0)


@dataclass(frozen=True)
class StepShape:
    """Of a layer: Llama-3.1-8B's where nothing else is said."""

    batch: int
    tokens: int
    kv_heads: int = 8
    group: int = 4
    head_dim: int = 128
    code_bytes: int = 16
    dtype: torch.dtype = torch.bfloat16

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_heads * self.group

    @property
    def cache_bytes(self) -> int:
        """Bytes of K and V."""
        return 4 * self.batch * self.kv_heads * self.tokens * self.head_dim


@dataclass
class GeneratedLayer:
    """A layer about to decode."""

    shape: StepShape
    codec: FieldCode
    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
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

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of attention."""
        return decode(self.query, self.keys, self.values, *self.state)

    def select(self) -> None:
        """The first half of a step."""
        select_survivors(self.query, self.keys, *self.state)

    def share(self) -> float:
        """Survivors over cold keys, after a selection; waits for the device."""
        exact = self.rule.sinks + self.rule.hot
        read = self.workspace.seqlens.double().mean() - exact
        return float(read) / (self.shape.tokens - exact)


def generated(shape: StepShape, device: torch.device, seed: int = 0) -> GeneratedLayer:
    """Keys of a falling spectrum about a mean, queries that see some of them, records written by the device."""
    rng = np.random.default_rng(seed)
    dim = shape.head_dim
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0] * np.arange(1.0, dim + 1) ** -0.5 * 3
    mean = rng.normal(size=dim)
    asked = rng.normal(size=(256, dim))
    codec = FieldCode(shape.code_bytes).fit(
        rng.normal(size=(min(_CALIBRATION, shape.tokens), dim)) @ axes.T + mean, asked
    )
    generator = torch.Generator(device).manual_seed(seed)
    size = (shape.batch, shape.kv_heads, shape.tokens, dim)
    keys, values = (torch.empty(size, dtype=shape.dtype, device=device) for _ in range(2))
    turn, shift = (torch.from_numpy(one).float().to(device) for one in (axes.T.copy(), mean))
    for b, h in np.ndindex(*size[:2]):
        # A row at a time: float32 of a whole long cache has no room beside it.
        keys[b, h] = (torch.randn(size[2:], generator=generator, device=device) @ turn + shift).to(
            shape.dtype
        )
        values[b, h] = (1.0 + torch.randn(size[2:], generator=generator, device=device)).to(shape.dtype)
    query = torch.randn(shape.batch, shape.heads, dim, generator=generator, device=device).to(shape.dtype)
    frames = DeviceFrames.of([codec] * shape.kv_heads, device)
    records = DeviceRecords.empty(
        shape.batch, shape.kv_heads, shape.tokens, shape.code_bytes, dim, device=device
    )
    rule = DeviceRule(torch.zeros(shape.heads, device=device), 4, min(64, shape.tokens // 4), dim**-0.5)
    length = torch.full((shape.batch,), shape.tokens, dtype=torch.int32, device=device)
    layer = GeneratedLayer(
        shape, codec, query, keys, values, frames, records, rule, torch.zeros_like(length), length,
        DecodeWorkspace.of(frames, records, shape.heads, shape.tokens),
    )  # fmt: skip
    write_prompt(layer.keys, layer.values, frames, records, rule, layer.start, length)
    return layer


def with_share(layer: GeneratedLayer, wanted: float) -> float:
    """Set one theta whose share of survivors is nearest to the wanted one; returns the share."""
    low, high = _THETA
    # An interpreted selection takes as long as a thousand on a card.
    for _ in range(_SEARCH if layer.keys.is_cuda else 3):
        layer.rule.theta.fill_((low + high) / 2)
        layer.select()
        low, high = ((low + high) / 2, high) if layer.share() > wanted else (low, (low + high) / 2)
    return layer.share()


def cluster(layer: GeneratedLayer, seed: int = 0) -> None:
    """Put cold keys of like scores side by side in runs of `RUN`, runs in random order: survivors then lie in runs."""
    low, high = layer.rule.sinks, layer.shape.tokens - layer.rule.hot
    group = layer.shape.group
    generator = torch.Generator(layer.keys.device).manual_seed(seed)
    for b, h in np.ndindex(layer.shape.batch, layer.shape.kv_heads):
        some = layer.keys[b, h, low:high]
        order = (layer.query[b, h * group : (h + 1) * group] @ some.T).amax(0).argsort()
        whole = len(order) // RUN * RUN
        runs = order[:whole].view(-1, RUN)
        shuffled = runs[torch.randperm(len(runs), generator=generator, device=runs.device)]
        order = torch.cat([shuffled.flatten(), order[whole:]])
        layer.keys[b, h, low:high] = some[order]
        layer.values[b, h, low:high] = layer.values[b, h, low:high][order]
    write_prompt(layer.keys, layer.values, layer.frames, layer.records, layer.rule, layer.start, layer.length)


def sharing(layer: GeneratedLayer) -> GeneratedLayer:
    """A layer with a cache and records of its own, the same in all else: another layer of a model."""
    records = DeviceRecords(*(one.clone() for one in layer.records.tensors()))
    return replace(layer, keys=layer.keys.clone(), values=layer.values.clone(), records=records)
