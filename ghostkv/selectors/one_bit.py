"""One bit per component of a key: RaBitQ's rotated signs, or signs between two levels of a group.

Card
----
Paper: Gao and Long 2024, "RaBitQ: quantizing high-dimensional vectors with a theoretical error bound for approximate
    nearest neighbor search", with 1-bit records of keys as in RaBitQCache (2026); Wang et al. 2025, "FIER: fine-grained
    and efficient KV cache retrieval for long-context LLM inference".
Rule: `rotated` takes a key less the mean, turns it by a random rotation and stores the sign of every component. With
    b the signs and y the turned key, ``|y|^2 (b.q) / (b.y)`` estimates y.q without bias over rotations. `grouped` cuts
    the cache into runs of `group` tokens; every component of a run has a scale and a zero, and a key stores on which
    side of the zero it lies. The keys of best estimate are read.
What differs: queries stay in float (the papers' kernels quantise them to 4 bits), and RaBitQ's two factors are stored as
    their one quotient; both favour the method. The mean comes from role `codec`. Of a group the two levels are the
    means above and below the middle of its range, which err less than its ends, FIER's levels. No budget follows
    RaBitQ's error bound. All layers are treated alike.
Index bytes: head_dim / 8 per cold key; `rotated`: a two-byte factor per cold key more; `grouped`: two fp16 vectors per
    run that holds a cold key.
Calibration: `rotated`: mean key on texts of role `codec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.config.options import Count
from ghostkv.selectors.base import Calibration, Estimate, Scene, Selector
from ghostkv.selectors.quest import runs_with_cold


@dataclass(frozen=True)
class OneBit(Selector):
    """Read the keys of best score under one bit a component."""

    scheme: Literal["rotated", "grouped"] = "rotated"
    group: Count = 32  # tokens that share scale and zero; of `grouped` alone

    def fit(self, calibration: Calibration) -> Any:
        """Mean key and rotation [head_dim, head_dim]; None where a run has its own levels."""
        if self.scheme == "grouped":
            return None
        return calibration.keys.mean(axis=0), random_rotation(calibration.keys.shape[1], calibration.seed)

    def constant_bytes(self, fitted: Any, scene: Scene) -> float:
        return 0.0 if fitted is None else float(ELEMENT_BYTES * sum(part.size for part in fitted))

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        width, visible = scene.keys.shape[1], scene.visible
        index = visible.cold * (width / 8)
        if self.scheme == "grouped":
            index = index + runs_with_cold(visible, self.group) * (2.0 * ELEMENT_BYTES * width)
            return Estimate(scene.score(scene.queries, two_levels(scene.keys, self.group)), index)
        mean, rotation = fitted
        signs, factors = rotated_signs(scene.keys - mean, rotation)
        scores = scene.score(scene.queries @ rotation, signs * factors[:, None])
        scores += (scene.queries @ (mean * np.float32(scene.scale)))[..., None]
        return Estimate(scores, index + visible.cold * float(ELEMENT_BYTES))


def random_rotation(width: int, seed: int) -> np.ndarray:
    """A rotation, or one with a reflection, float32, drawn evenly among all."""
    draw, upper = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    return (draw * np.sign(np.diag(upper))).astype(np.float32)


def rotated_signs(centred: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signs of the turned keys, and the factor under which they stand for them: float32 [tokens, head_dim], [tokens]."""
    turned = centred @ rotation
    signs = np.where(turned > 0, np.float32(1), np.float32(-1))
    along = np.maximum(np.abs(turned).sum(axis=1), 1e-30)
    return signs, ((turned**2).sum(axis=1) / along).astype(np.float16).astype(np.float32)


def two_levels(keys: np.ndarray, group: int) -> np.ndarray:
    """Keys with every component at the upper or lower level of its run of tokens, shape [tokens, head_dim]."""
    out = np.empty(keys.shape, np.float32)
    whole = len(keys) // group * group
    for first, last, length in ((0, whole, group), (whole, len(keys), len(keys) - whole)):
        if first == last:
            continue
        runs = keys[first:last].reshape(-1, length, keys.shape[1])
        above = runs > (runs.max(axis=1, keepdims=True) + runs.min(axis=1, keepdims=True)) / 2
        many = above.sum(axis=1, keepdims=True)
        upper = np.where(above, runs, 0).sum(axis=1, keepdims=True) / np.maximum(many, 1)
        lower = np.where(above, 0, runs).sum(axis=1, keepdims=True) / np.maximum(length - many, 1)
        levels = np.where(above, upper.astype(np.float16), lower.astype(np.float16))
        out[first:last] = levels.reshape(-1, keys.shape[1])
    return out
