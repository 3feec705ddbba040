"""Layers that are timed: one that was captured, and generated ones of any shape and length with its spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.codecs import Codec
from ghostkv.codecs.field_code import FieldCode
from ghostkv.codecs.sizes import code_bytes
from ghostkv.codecs.whitened import Whitened
from ghostkv.runtime.packed_reference import bfloat16_of, float32_of

if TYPE_CHECKING:
    from ghostkv.config.speed import TimedShape

# Keys and queries that a codec of a generated layer is fitted on.
_FITTED = 4096
_ROW_BYTES = 4


@dataclass(frozen=True)
class TimedLayer:
    """K, V and queries of one layer, and the codecs of its KV heads."""

    name: str
    source: str
    # float32 [kv_heads, tokens, dim], exact in bfloat16
    keys: np.ndarray
    values: np.ndarray
    queries: np.ndarray  # float32 [queries, heads, head_dim]
    codecs: list[Codec]
    texts: int  # KV heads that differ; the others hold a copy of the first
    scale: float


@dataclass(frozen=True)
class Spectrum:
    """What is taken over from a captured layer: variance of the scores along each axis of the query-aware frame, descending,
    mean over KV heads; and the squared length of the mean value over the variance of values."""

    scores: np.ndarray
    values: float


def spectrum_of(capture: LayerCapture) -> Spectrum:
    """The spectrum of a captured layer; without values their mean counts as zero."""
    found = []
    for kv in range(capture.kv_heads):
        keys = capture.keys[kv].astype(np.float64)
        frame = Whitened(0)
        frame.fit_frame(keys, capture.group_queries(kv).reshape(-1, keys.shape[1]).astype(np.float64))
        found.append(((keys - frame.mean_) @ frame.encoder_.T).var(axis=0) * capture.scale**2)
    values = 0.0
    if capture.values is not None:
        of_v = capture.values.astype(np.float64)
        values = float((of_v.mean(axis=1) ** 2).sum() / of_v.var(axis=1).sum())
    return Spectrum(np.sort(np.mean(found, axis=0))[::-1], values)


def record_bytes(bits: float, head_dim: int) -> int:
    """Bytes of code in whole rows, at least one."""
    return max(1, round(code_bytes(bits, head_dim) / _ROW_BYTES)) * _ROW_BYTES


def field_codecs(calibration: Sequence[LayerCapture], bits: float) -> list[Codec]:
    """A codec in whole fields for each KV head of a layer."""
    width = calibration[0].keys.shape[2]
    return [
        FieldCode(record_bytes(bits, width)).fit(
            np.concatenate([one.keys[kv] for one in calibration]),
            np.concatenate([one.group_queries(kv).reshape(-1, width) for one in calibration]),
        )
        for kv in range(calibration[0].kv_heads)
    ]


def captured_layer(
    calibration: Sequence[LayerCapture], text: LayerCapture, bits: float, hot: int
) -> TimedLayer:
    """A captured layer as the last queries of its text see it, all of it: those of the hot window, or the last one."""
    late = text.positions >= min(text.tokens - hot, text.positions.max())
    codecs = field_codecs(calibration, bits)
    keys, values = (float32_of(bfloat16_of(one)) for one in (text.keys, text.values))
    queries = np.ascontiguousarray(text.queries[:, late].swapaxes(0, 1))
    return TimedLayer("captured", "captured", keys, values, queries, codecs, text.kv_heads, text.scale)


def generated_layer(
    shape: TimedShape, tokens: int, spectrum: Spectrum, bits: float, queries: int, seed: int
) -> TimedLayer:
    """A layer of normal keys whose scores have the captured spectrum, stretched over as many axes as a key has.

    KV heads hold copies of one text, each in memory of its own, and are asked other queries.
    """
    rng = np.random.default_rng(seed)
    width = shape.head_dim
    source = np.linspace(0.0, 1.0, len(spectrum.scores))
    variance = np.exp(
        np.interp(np.linspace(0.0, 1.0, width), source, np.log(np.maximum(spectrum.scores, 1e-12)))
    )
    variance *= spectrum.scores.sum() / variance.sum()
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0].astype(np.float32)
    root = axes * np.sqrt(variance).astype(np.float32)
    scale = width**-0.5

    def asked(*count: int) -> np.ndarray:
        return rng.standard_normal((*count, width), np.float32) @ axes.T / np.float32(scale)

    def drawn(count: int) -> np.ndarray:
        return rng.standard_normal((count, width), np.float32) @ root.T

    codec = FieldCode(record_bytes(bits, width)).fit(drawn(_FITTED), asked(_FITTED))
    mean = rng.standard_normal(width, np.float32)
    mean *= np.float32(np.sqrt(spectrum.values * width) / np.linalg.norm(mean))
    keys = float32_of(bfloat16_of(drawn(tokens)))
    values = float32_of(bfloat16_of(mean + rng.standard_normal((tokens, width), np.float32)))
    every = (shape.kv_heads, tokens, width)
    keys, values = (np.array(np.broadcast_to(one, every), order="C") for one in (keys, values))
    own = asked(queries, shape.heads)
    return TimedLayer(shape.name, "generated", keys, values, own, [codec] * shape.kv_heads, 1, scale)
