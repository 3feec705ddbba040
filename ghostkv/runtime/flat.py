"""Flat KV heads: on threshold text, what elimination reads of them is no less than all that they hold. They stay dense.

Compared are GQA-true bytes: records once, and the union of what the heads of the group keep. A KV head that is read whole
drops nothing, so a promise on the mean loss of its heads holds as before. A certificate has no flat heads: its K is stored as
the record, so no key costs more than its K and V.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import Codec
from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.elimination.attention import cold_range
from ghostkv.elimination.thresholds import union_survivors
from ghostkv.files.errors import ConfigError
from ghostkv.runtime.policy_fit import log_mass


def calibrated_ratios(
    captures: Sequence[LayerCapture],
    codecs: Sequence[Codec],
    theta: np.ndarray,
    sinks: int,
    hot: int,
    start: int,
) -> np.ndarray:
    """Bytes ratio of each KV head under ghost records, GQA-true; float64 [kv_heads].

    Parameters
    ----------
    captures : sequence of LayerCapture
        One layer of the threshold texts; queries from position `start` on count.
    theta : ndarray of float32, shape [heads]
        Least estimated log mass of a key that is read; -inf for a head that reads all.

    Raises
    ------
    ConfigError
        No query lies at `start` or beyond.
    """
    if not any((capture.positions >= start).any() for capture in captures):
        latest = max(int(capture.positions.max()) for capture in captures)
        raise ConfigError(
            f"policy: of the threshold texts no query at position {start} or later was captured, and the last is at {latest}. "
            f"Accepted: frontier.headline_start up to {latest}.\n  Write: headline_start: {latest // 2}   (under frontier)"
        )
    read, full = np.zeros((2, len(codecs)))
    for capture in captures:
        wanted = capture.positions >= start
        visible = cold_range(capture.positions[wanted], capture.first_visible()[wanted], sinks, hot)
        for h, codec in enumerate(codecs):
            own = theta[h * capture.group : (h + 1) * capture.group]
            found = log_mass(capture, h, codec, wanted, visible)
            united = union_survivors(found, own, visible.start, visible.stop)
            kept = visible.visible - visible.cold + united
            read[h] += (kept * _pair(capture) + visible.cold * codec.record_bytes).sum()
            full[h] += visible.visible.sum() * _pair(capture)
    return read / full


def flat_heads(ratios: Mapping[int, np.ndarray]) -> dict[int, dict[int, float]]:
    """KV heads by layer that stay dense, with the bytes ratio that elimination would have come to, at least 1."""
    found = {layer: np.flatnonzero(each >= 1.0) for layer, each in ratios.items()}
    return {
        layer: {int(head): float(ratios[layer][head]) for head in heads}
        for layer, heads in found.items()
        if len(heads)
    }


def _pair(capture: LayerCapture) -> int:
    """Bytes of one key and value in fp16."""
    return ELEMENT_BYTES * (capture.keys.shape[2] + capture.values.shape[2])
