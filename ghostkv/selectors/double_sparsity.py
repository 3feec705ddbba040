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
from ghostkv.selectors.base import Calibration, Estimate, Scene, Selector

BITS = 4


@dataclass(frozen=True)
class DoubleSparsity(Selector):
    """Read the keys of best score in the label cache."""

    channels: Width = 16  # channels in the label cache

    def fit(self, calibration: Calibration) -> Any:
        """The channels, their quantiser, and the mean key without them."""
        loudness = np.abs(calibration.queries).mean(axis=(0, 1)) * np.abs(calibration.keys).mean(axis=0)
        chosen = np.sort(np.argsort(-loudness, kind="stable")[: self.channels])
        labels = calibration.keys[:, chosen].astype(np.float64)
        rest = calibration.keys.mean(axis=0)
        rest[chosen] = 0
        return chosen, UniformQuantiser.fit(labels, np.full(len(chosen), BITS)), rest

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        # A channel's number, least value and step.
        return 5.0 * len(fitted[0])

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        chosen, quantiser, rest = fitted
        labels = quantiser.dequantise(quantiser.quantise(scene.keys[:, chosen]))
        scores = scene.score(scene.queries[..., chosen], labels)
        # The other channels at their mean: a constant of the query, so that scores have the right level for masses.
        scores += (scene.queries @ (rest * np.float32(scene.scale)))[..., None]
        return Estimate(scores, scene.visible.cold * (len(chosen) * BITS / 8))
