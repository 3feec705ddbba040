"""Double Sparsity: scores from a few important channels, kept in 4 bits.

Card
----
Paper: Yang et al. 2024, "Post-training sparse attention with double sparsity".
Rule: offline calibration finds the channels of largest mean ``|q_c k_c|``; a label cache holds those channels
    of every key in 4 bits; approximate scores from the labels choose the keys.
What differs: labels use one scale per channel, fitted offline for least squared error, where the paper's
    kernel stores scales with the labels; this saves Double Sparsity those bytes.
Index bytes: `channels` / 2 per cold key, once per KV head.
Calibration: channels and scales on texts of role `codec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostkv.codecs.quantiser import UniformQuantiser
from ghostkv.config.options import Width
from ghostkv.selectors.base import Budget, Calibration, Scene, Selection, Selector, read_best
from ghostkv.selectors.estimates import with_tail

BITS = 4


@dataclass(frozen=True)
class DoubleSparsity(Selector):
    """Read the keys of best score in the label cache."""

    channels: Width = 16  # channels in the label cache
    # Add this lab's tail compensation, which the paper does not have. Its estimates then count the other channels at
    # their mean, a constant of the query that leaves the order of keys as it was.
    compensate: bool = False

    @property
    def kind(self) -> str:
        return "extended" if self.compensate else "peer"

    def fit(self, calibration: Calibration) -> Any:
        """The channels, their quantiser, and the mean key without them."""
        loudness = np.abs(calibration.queries).mean(axis=(0, 1)) * np.abs(calibration.keys).mean(axis=0)
        chosen = np.sort(np.argsort(-loudness, kind="stable")[: self.channels])
        labels = calibration.keys[:, chosen].astype(np.float64)
        rest = calibration.keys.mean(axis=0)
        rest[chosen] = 0
        return chosen, UniformQuantiser.fit(labels, np.full(len(chosen), BITS)), rest

    def select(self, fitted: Any, scene: Scene, budget: Budget) -> Selection:
        chosen, quantiser, rest = fitted
        labels = quantiser.dequantise(quantiser.quantise(scene.keys[:, chosen]))
        priority = scene.score(scene.queries[..., chosen], labels)
        index = scene.visible.cold * (len(chosen) * BITS / 8)
        read = read_best(priority, scene, budget, index)
        if not self.compensate:
            return read
        priority += (scene.queries @ (rest * np.float32(scene.scale)))[..., None]
        return with_tail(read, priority, scene)
