"""What decode steps moved, counted on the device and read when asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ghostkv.codecs.base import ELEMENT_BYTES, RHO_BYTES
from ghostkv.gpu.layout import DeviceRecords

# Columns that `emit` adds to, a line a sequence and KV head.
STEPS, COLD, SURVIVING, EXACT = range(4)


@dataclass(frozen=True)
class DeviceTraffic:
    """Counts of one layer's steps: int64 [rows, 4], which no step reads."""

    counts: torch.Tensor
    code_bytes: int
    row_bytes: int  # of a key and its value together

    @classmethod
    def of(cls, counts: torch.Tensor, records: DeviceRecords) -> DeviceTraffic:
        """Over counts that a workspace holds; records say how many bytes a key has."""
        dims = records.value_sum.shape[2]
        return cls(counts, records.codes.shape[3], 2 * dims * ELEMENT_BYTES)

    def reset(self) -> None:
        """Begin anew."""
        self.counts.zero_()

    def summary(self) -> dict[str, float]:
        """Totals over rows, and bytes over those of a dense cache; waits for the device.

        `bytes` counts codes and residuals of cold keys once a row, and K and V of what is read.
        """
        steps, cold, survivors, exact = (int(one) for one in self.counts.sum(0).tolist())
        moved = cold * (self.code_bytes + RHO_BYTES) + (survivors + exact) * self.row_bytes
        return {
            "steps": steps,
            "cold": cold,
            "survivors": survivors,
            "exact": exact,
            "bytes": moved,
            "bytes_ratio": moved / max((cold + exact) * self.row_bytes, 1),
        }
