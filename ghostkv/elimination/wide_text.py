"""K and V of one KV head on one text in float32, made once for all blocks of its queries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.elimination.compensation import running_sums


@dataclass(frozen=True)
class WideText:
    """K and V as arithmetic takes them."""

    keys: np.ndarray  # float32 [tokens, head_dim]
    values: np.ndarray | None  # float32 [tokens, value_dim]

    @classmethod
    def of(cls, capture: LayerCapture, kv_head: int, with_output: bool) -> WideText:
        """`with_output` False leaves values out."""
        values = capture.values if with_output else None
        return cls(
            capture.keys[kv_head].astype(np.float32),
            None if values is None else values[kv_head].astype(np.float32),
        )

    @cached_property
    def sums(self) -> np.ndarray:
        """`running_sums` of the values."""
        return running_sums(self.values)
