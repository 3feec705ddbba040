"""Ghost records: ours.

Card
----
Source: this lab; docs/peers.md, section 3, and the codecs of the sketch stage.
Rule: the ghost record of a key (its code alone) gives an estimate ``s_hat`` of its score, and the estimates of a group
    say which keys hold mass. Every size is one setting; the method is the size that lost least on threshold texts, chosen
    for each KV head, budget and column (`ghostkv.stages.peers.choice`).
Index bytes: bits * head_dim / 8 per cold key, once per KV head. The byte of residual norm is needed by certificates
    alone, and is not read here.
Calibration: codec and frame on role `codec` (as Loki's, Double Sparsity's and PQ's).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ghostkv.codecs.sizes import code_bytes
from ghostkv.config.options import CodeBits, RecordCodec
from ghostkv.selectors.base import Estimate, Scene, Selector


@dataclass(frozen=True)
class Ghost(Selector):
    """Read the keys whose ghost record estimates most mass."""

    kind: ClassVar[str] = "record"

    bits: CodeBits = 1.0  # a coordinate
    codec: RecordCodec = "transform_code"

    def record_spec(self, head_dim: int) -> tuple[str, int]:
        return self.codec, code_bytes(self.bits, head_dim)

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        return float(scene.records(*self.record_spec(scene.keys.shape[1]))[0].constant_bytes)

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        spec = self.record_spec(scene.keys.shape[1])
        codec, decoded = scene.records(*spec)
        scores = scene.empty()
        projected = codec.project(scene.queries.reshape(-1, scene.queries.shape[2]))
        codec.estimate(projected, decoded, scene.scale, scores.reshape(-1, scene.shape[2]))
        return Estimate(scores, scene.visible.cold * float(spec[1]))
