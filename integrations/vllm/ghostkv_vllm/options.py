"""What vLLM is told under ``additional_config={"ghostkv": {...}}``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from ghostkv.codecs.records import CodecSpec, load_codecs
from ghostkv.files.errors import ConfigError
from ghostkv.gpu.layout import DeviceFrames, DeviceRule


@dataclass(frozen=True)
class GhostOptions:
    """Which records are kept, and which keys are read."""

    codecs: str  # path of a layer's fitted codecs, with {layer} for its number
    code_bytes: int
    theta: float | Sequence[Sequence[float]]  # of all heads, or a list of heads for each layer
    sinks: int = 4
    hot: int = 64
    compensate: bool = True

    @classmethod
    def of(cls, vllm_config) -> GhostOptions:
        """From vLLM's config.

        Raises
        ------
        ConfigError
            Options are missing or unknown, or vLLM is told to do what this backend does not.
        """
        given = vllm_config.additional_config.get("ghostkv")
        names = {field.name for field in fields(cls)}
        needed = {"codecs", "code_bytes", "theta"}
        if not isinstance(given, dict) or set(given) - names or needed - set(given):
            raise ConfigError(
                f"ghostkv_vllm: additional_config['ghostkv'] is {given!r}. Accepted: a mapping with {sorted(needed)}, and of "
                f"{sorted(names - needed)} what differs from the defaults. Without this backend: VLLM_PLUGINS=''"
            )
        if vllm_config.speculative_config is not None:
            raise ConfigError(
                "ghostkv_vllm: speculative decoding writes slots twice. Leave speculative_config out"
            )
        return cls(**given)

    def frames(self, layer: int, kv_heads: int, device: torch.device) -> DeviceFrames:
        """The field codes of a layer."""
        spec = CodecSpec("field_code", self.code_bytes)
        path = self.codecs.format(layer=layer)
        fitted = load_codecs(path, [spec])
        if len(fitted) != kv_heads:
            raise ConfigError(
                f"ghostkv_vllm: {path} has codecs of {len(fitted)} KV heads, the layer has {kv_heads}"
            )
        return DeviceFrames.of([fitted[spec, head] for head in range(kv_heads)], device)

    def rule(self, layer: int, heads: int, scale: float, softcap: float, device: torch.device) -> DeviceRule:
        """Which cold keys of a layer are read."""
        every = isinstance(self.theta, int | float)
        theta = [self.theta] * heads if every else self.theta[layer]
        if len(theta) != heads:
            raise ConfigError(
                f"ghostkv_vllm: theta has {len(theta)} heads in layer {layer}, the model has {heads}"
            )
        told = torch.tensor(theta, dtype=torch.float32, device=device)
        return DeviceRule(told, self.sinks, self.hot, scale, softcap, self.compensate)
