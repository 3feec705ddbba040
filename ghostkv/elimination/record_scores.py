"""Scores of keys as their records give them, and how far a score may be from its estimate."""

from __future__ import annotations

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import Codec, Decoded
from ghostkv.elimination.attention import cap

# The oracle has no margin; `relative_topk` divides by one, so the oracle's theta counts in steps of 4 score
# units, which lets a grid made for margins reach as far down.
ORACLE_MARGIN = 4.0


def oracle_margins(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`Estimates.weight`, `radius` and `slack` of the oracle."""
    group = shape[:2]
    return (
        np.full(group, ORACLE_MARGIN, np.float32),
        np.ones(shape[2], np.float32),
        np.zeros(group, np.float32),
    )


def score_decoded(
    capture: LayerCapture, kv_head: int, codec: Codec, decoded: Decoded, out: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`Estimates.scores`, written to `out`, `weight`, `radius` and `slack` of a capture's queries."""
    queries = capture.group_queries(kv_head)
    projected = codec.project(queries.reshape(-1, queries.shape[-1]))
    codec.estimate(projected, decoded, capture.scale, out.reshape(-1, out.shape[2]))
    weight, slack = (
        one.reshape(out.shape[:2])
        for one in (projected.weight(capture.scale), projected.slack(capture.scale, decoded))
    )
    return cap(out, capture.softcap), weight, decoded.radius, slack
