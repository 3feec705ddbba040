"""Codecs fitted to the keys and queries of captures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.captures.generated import Drawn
from ghostkv.codecs import Codec, by_name
from ghostkv.codecs.records import CodecSpec
from ghostkv.files.io import stable_seed


def fit_codecs(
    calibration: Sequence[LayerCapture], chosen: Sequence[CodecSpec], layer: int, seed: int
) -> dict[tuple[CodecSpec, int], Codec]:
    """Fit each codec for each KV head on all calibration captures together."""
    fitted = {}
    positions = np.concatenate([np.arange(capture.tokens) for capture in calibration])
    # Of the queries of all heads of a group, as `group_queries` has them.
    asked = np.concatenate([np.tile(capture.positions, capture.group) for capture in calibration])
    for kv_head in range(calibration[0].kv_heads):
        keys = np.concatenate([capture.keys[kv_head].astype(np.float64) for capture in calibration])
        queries = np.concatenate(
            [
                capture.group_queries(kv_head).reshape(-1, keys.shape[1]).astype(np.float64)
                for capture in calibration
            ]
        )
        for spec in chosen:
            codec = by_name.make(spec.name, spec.code_bytes, stable_seed(seed, layer, kv_head, spec.key))
            fitted[spec, kv_head] = codec.fit(keys, queries, positions, asked)
    return fitted


def fit(spec: CodecSpec, text: Drawn, seed: int) -> Codec:
    """A codec fitted on a generated text."""
    codec = by_name.make(spec.name, spec.code_bytes, stable_seed(seed, spec.key))
    capture = text.capture
    queries = capture.queries.reshape(-1, capture.keys.shape[2])
    return codec.fit(capture.keys[0], queries, asked=np.tile(capture.positions, capture.heads))
