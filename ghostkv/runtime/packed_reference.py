"""What a decode step over packed records must give, in float64 and one key after the other's formula: the oracle of `packed_attention`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ghostkv.codecs import Codec, Records
from ghostkv.runtime.packed_parts import PackedCache, PackedRule, Place


def float32_of(cache: np.ndarray) -> np.ndarray:
    """Numbers of a cache as float32: themselves, or those whose upper bits a uint16 holds (bfloat16)."""
    return (cache.astype(np.uint32) << 16).view(np.float32) if cache.dtype == np.uint16 else cache


def bfloat16_of(numbers: np.ndarray) -> np.ndarray:
    """Finite numbers as bfloat16 in a uint16, rounded to even."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def estimates_of(
    queries: np.ndarray, codec: Codec, records: Records, scale: float, softcap: float
) -> np.ndarray:
    """Scores as records show them to queries in int8, float64 [queries, keys]."""
    quantiser = codec.quantiser_
    levels = quantiser.unpack(records.code).astype(np.float64)
    middle = ((1 << quantiser.bits) - 1) / 2
    queries = queries.astype(np.float64)
    weights = (queries @ codec.decoder_) * quantiser.step
    unit = np.maximum(np.abs(weights).max(axis=1, keepdims=True) / 127, np.finfo(float).tiny)
    offset = queries @ (codec.mean_ + codec.decoder_ @ quantiser.centre)
    sums = np.rint(weights / unit) @ (levels - middle).T
    return capped((offset[:, None] + unit * sums) * scale, softcap)


def capped(scores: np.ndarray, softcap: float) -> np.ndarray:
    """Scores under a soft cap; 0 is none."""
    return softcap * np.tanh(scores / softcap) if softcap else scores


def reference_step(
    query: np.ndarray,
    cache: PackedCache,
    codecs: Sequence[Codec],
    records: Sequence[Records],
    rule: PackedRule,
    place: Place,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Output float64 [heads, value_dim], and the survivors of each KV head, ascending.

    Parameters
    ----------
    codecs, records
        One of each for every KV head.
    """
    seen = slice(place.first, place.tokens)
    keys, values = (float32_of(one[:, seen]).astype(np.float64) for one in cache)
    group = len(query) // len(keys)
    cold = np.zeros(place.tokens - place.first, bool)
    cold[place.start - place.first : place.stop - place.first] = True
    out, survivors = np.empty((len(query), values.shape[2])), []
    for kv, own in enumerate(one[seen] for one in records):
        heads = slice(kv * group, (kv + 1) * group)
        guess = estimates_of(query[heads], codecs[kv], own, rule.scale, rule.softcap)
        exact = capped(query[heads].astype(np.float64) @ keys[kv].T * rule.scale, rule.softcap)
        lse = np.logaddexp.reduce(np.where(cold, guess, exact), axis=1)
        wanted = (guess - lse[:, None] >= rule.theta[heads, None]).any(axis=0) | (own.rho == 255)
        read = ~cold | wanted
        survivors.append(place.first + np.flatnonzero(cold & wanted))
        top = np.where(read, exact, guess).max(axis=1, keepdims=True)
        weights = np.exp(np.where(read, exact, -np.inf) - top)
        left = np.exp(np.where(read, -np.inf, guess) - top).sum(axis=1, keepdims=True) * bool(rule.compensate)
        mean = values[kv, cold].sum(axis=0) / max(place.cold, 1)
        out[heads] = (weights @ values[kv] + left * mean) / (weights.sum(axis=1, keepdims=True) + left)
    return out, survivors
