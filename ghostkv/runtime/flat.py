"""Flat KV heads: on threshold text, what elimination reads of them is no less than all that they hold. They stay dense.

Compared are GQA-true bytes: records once, and the union of what the heads of the group keep. A KV head that is read whole
drops nothing, so a promise on the mean loss of its heads, or on every query of theirs, holds as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import Codec
from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.elimination.attention import cold_range
from ghostkv.elimination.thresholds import union_survivors
from ghostkv.files.errors import ConfigError
from ghostkv.runtime.call_views import CallView
from ghostkv.runtime.certified import CertifiedMass, NestedState
from ghostkv.runtime.policy_fit import log_mass

# Queries that are certified at once; most heads leave something out of the first of them, which settles it.
_QUERIES = 4


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
    _some_late(captures, start)
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


def certified_ratios(
    captures: Sequence[LayerCapture], decider: CertifiedMass, sinks: int, hot: int, start: int
) -> np.ndarray:
    """Bytes ratio of each KV head under a certificate, GQA-true, over the queries that settle whether it is below 1.

    The stored K is the record itself, and no key costs more than its float16 K and V. So nothing makes up for the first key
    that a query leaves out, and the queries after it are not looked at. Raises as `calibrated_ratios`.
    """
    _some_late(captures, start)
    found = np.empty(len(decider.codecs))
    for h, codec in enumerate(decider.codecs):
        read, full = 0.0, 0.0
        most = max(len(capture.positions) for capture in captures)
        for capture, begin in product(captures, range(0, most, _QUERIES)):
            some = np.flatnonzero(capture.positions >= start)[begin : begin + _QUERIES]
            if not len(some):
                continue
            view = _view(capture, h, some, sinks, hot)
            state = NestedState({(0, h): codec.encode(view.keys)})
            outcome, *_ = decider.certify(state, 0, h, view)
            held = view.visible.visible * _pair(capture)
            read, full = read + (outcome.group_nested * held).sum(), full + held.sum()
            if read < full and codec.level_bytes.sum() <= ELEMENT_BYTES * view.keys.shape[1]:
                break
        found[h] = read / full
    return found


def flat_heads(ratios: Mapping[int, np.ndarray]) -> dict[int, dict[int, float]]:
    """KV heads by layer that stay dense, with the bytes ratio that elimination would have come to, at least 1."""
    found = {layer: np.flatnonzero(each >= 1.0) for layer, each in ratios.items()}
    return {
        layer: {int(head): float(ratios[layer][head]) for head in heads}
        for layer, heads in found.items()
        if len(heads)
    }


def _some_late(captures: Sequence[LayerCapture], start: int) -> None:
    if not any((capture.positions >= start).any() for capture in captures):
        latest = max(int(capture.positions.max()) for capture in captures)
        raise ConfigError(
            f"policy: of the threshold texts no query at position {start} or later was captured, and the last is at {latest}. "
            f"Accepted: frontier.headline_start up to {latest}.\n  Write: headline_start: {latest // 2}   (under frontier)"
        )


def _pair(capture: LayerCapture) -> int:
    """Bytes of one key and value in fp16."""
    return ELEMENT_BYTES * (capture.keys.shape[2] + capture.values.shape[2])


def _view(capture: LayerCapture, kv_head: int, some: np.ndarray, sinks: int, hot: int) -> CallView:
    positions = capture.positions[some]
    # No query sees beyond the last of them, so neither needs records from there on.
    end = int(positions.max()) + 1
    return CallView(
        capture.keys[kv_head, :end].astype(np.float32), capture.values[kv_head, :end].astype(np.float32),
        np.ascontiguousarray(capture.group_queries(kv_head)[:, some]), positions,
        cold_range(positions, capture.first_visible()[some], sinks, hot), capture.scale, capture.softcap,
    )  # fmt: skip
