"""One threshold for a whole model: the least estimated log mass that a byte budget affords.

The statistic ``s_hat - lse + log n`` with n visible keys is the log of a key's estimated share of the softmax over the
uniform share, comparable between heads, layers and lengths of text. One threshold for all of them therefore spends a
model's bytes where keys hold mass: heads that attend broadly read much, sharp ones little. It is fitted on captures of
role `threshold`, at GQA-true bytes of the whole model, dense layers included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import Codec
from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.elimination.attention import cap, cold_range, scores
from ghostkv.elimination.thresholds import kept_or_estimated, reference, statistic
from ghostkv.files.errors import ConfigError
from ghostkv.quantised.base import CacheType
from ghostkv.quantised.floats import Fp16
from ghostkv.selectors.picking import ThresholdHistogram

LOWEST, HIGHEST = -16.0, 8.0


@dataclass
class BudgetFit:
    """Adds up, layer by layer, what every threshold would read."""

    sinks: int
    hot: int
    start: int = 0  # first query position that counts
    shared: bool = True  # survivors are united over a group (GQA-true bytes); else each head pays for its own
    cache: CacheType = field(
        default_factory=Fp16
    )  # what is read of K and V, and what that costs; over full fp16

    def __post_init__(self) -> None:
        self._histogram = ThresholdHistogram(LOWEST, HIGHEST)
        self._full, self._fixed = 0.0, 0.0

    def add(self, capture: LayerCapture, codecs: Sequence[Codec] | None) -> None:
        """Count a layer of one text; without codecs it is dense."""
        wanted = capture.positions >= self.start
        positions = capture.positions[wanted]
        visible = cold_range(positions, capture.first_visible()[wanted], self.sinks, self.hot)
        widths = capture.keys.shape[2], capture.values.shape[2]
        pair, held = ELEMENT_BYTES * sum(widths), self.cache.pair_bytes(*widths)
        count = capture.kv_heads if self.shared else capture.heads
        full = float(visible.visible.sum()) * pair * count
        self._full += full
        if codecs is None or capture.window:
            self._fixed += full
            return
        self._fixed += count * float(
            ((visible.visible - visible.cold) * pair + visible.cold * codecs[0].record_bytes).sum()
        )
        price = np.full(len(positions), float(held))
        for h, codec in enumerate(codecs):
            keys, _ = self.cache.write(*(one[h].astype(np.float32) for one in (capture.keys, capture.values)))
            found = log_mass(capture, h, codec, wanted, visible, keys)
            found += np.log(visible.visible)[:, None].astype(np.float32)
            if self.shared:
                found = found.max(axis=0, keepdims=True)
            for row in found:
                self._histogram.add(row[None], visible.start, visible.stop, price)

    def theta(self, ratios: Sequence[float]) -> list[float]:
        """The smallest threshold that each bytes ratio affords.

        Raises
        ------
        ConfigError
            Records, sinks, hot window and dense layers alone exceed a ratio.
        """
        least = self._fixed / self._full
        for ratio in ratios:
            if ratio <= least:
                raise ConfigError(
                    f"policy: a bytes ratio of {ratio:g} is out of reach: records, sinks, hot window and dense layers "
                    f"alone read {least:.3f} of the full K and V.\n  Write: ratio: {least + 0.05:.2f}, or fewer "
                    "dense_layers"
                )
        return [float(t) for t in self._histogram.theta([r * self._full - self._fixed for r in ratios])[:, 0]]


def log_mass(
    capture: LayerCapture,
    kv_head: int,
    codec: Codec,
    wanted: np.ndarray,
    visible,
    written: np.ndarray | None = None,
) -> np.ndarray:
    """Estimated log mass of cold keys, float32 of shape [group, queries, tokens]; records are of `written`, if it is given."""
    queries, keys = capture.group_queries(kv_head)[:, wanted], capture.keys[kv_head]
    exact = scores(queries, keys.astype(np.float32), capture.scale, capture.softcap, visible)
    decoded = codec.decode(codec.encode(keys if written is None else written))
    projected = codec.project(queries.reshape(-1, queries.shape[2]))
    estimates = cap(codec.estimate(projected, decoded, capture.scale), capture.softcap).reshape(exact.shape)
    origin = reference("relative_lse", kept_or_estimated(estimates, exact, visible), visible, 1)
    weight = projected.weight(capture.scale).reshape(exact.shape[:2])
    return statistic("relative_lse", estimates, origin, weight, decoded.radius, visible)


def fit_theta(
    layers: Iterable[tuple[Sequence[LayerCapture], Sequence[Codec] | None]],
    ratios: Sequence[float],
    **options,
) -> Mapping[float, float]:
    """Thresholds by bytes ratio, from every layer's threshold captures and codecs (None: a dense layer)."""
    fit = BudgetFit(**options)
    for captures, codecs in layers:
        for capture in captures:
            fit.add(capture, codecs)
    return dict(zip(ratios, fit.theta(ratios), strict=True))
