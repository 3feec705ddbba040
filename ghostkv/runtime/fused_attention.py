"""One decode step of attention under elimination, fused: estimate, threshold, gather, softmax, tail.

One call serves any number of consecutive queries of a layer. A single decode step is a block of one query, so both
ways of running a model go through the same arithmetic: every query sees its own causal past, its own cold keys and
its own survivors. Nothing is materialised beyond one query of one group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ghostkv.elimination.compensation import HIGHEST
from ghostkv.files.compiled import njit
from ghostkv.runtime.fused_sums import (
    FAST,
    advance_mean,
    estimates,
    exponentials,
    hold,
    mark,
    scores,
    unread_mass,
    weighted,
)

# Columns of what `ghost_attend` counts for each query and KV head; survivors of each head follow.
VISIBLE, COLD, UNITED, HEADS = range(4)


class Cache(NamedTuple):
    """What a layer holds of the tokens so far; the queries are the last of them."""

    # float32 [batch, kv_heads, tokens or more, dim]
    keys: np.ndarray
    values: np.ndarray
    first: np.ndarray  # int64 [batch]; first visible token: the left padding of each row
    past: int  # tokens before the first query


class EstimateFrames(NamedTuple):
    """What estimates need of the codecs.

    ``offset`` float32 [kv_heads, head_dim], ``decoder`` float32 [kv_heads, dims, head_dim], ``dims`` int64 [kv_heads].
    """

    offset: np.ndarray
    decoder: np.ndarray
    dims: np.ndarray


class GhostRecords(NamedTuple):
    """Ghost records, and the running sum of V over the cold keys."""

    # As `write_records` fills them
    coordinates: np.ndarray
    unbound: np.ndarray
    total: np.ndarray  # float64 [batch, kv_heads, value_dim]
    span: np.ndarray  # int64 [batch, kv_heads, 2]; keys that the sum covers


class GhostRule(NamedTuple):
    """How a query is answered."""

    theta: np.ndarray  # float32 [heads]
    # Theta counts from the uniform share ``1 / visible`` instead of from 1: the threshold falls as a text grows
    per_key: bool
    shared: bool  # every head of a group attends to the union of the group's survivors, which is read anyway
    compensate: bool  # give the estimated mass of what was not read to the mean of V over the cold keys
    sinks: int
    hot: int
    scale: float
    softcap: float


class _Stored(NamedTuple):
    """Cache, codec and records of one KV head."""

    keys: np.ndarray
    values: np.ndarray
    offset: np.ndarray
    decoder: np.ndarray
    dims: int
    coordinates: np.ndarray
    unbound: np.ndarray
    total: np.ndarray


class _Place(NamedTuple):
    """One query: its cold keys are start..stop, of so many visible; so many `known` keys are exact."""

    start: int
    stop: int
    visible: int
    known: int


class _Scratch(NamedTuple):
    """One query of one group: estimates, their weights and exact scores [group, tokens]; which heads want a key and
    which keys are read [tokens]; the query seen from the frame [dims]; the largest score of each head [group]; and
    room of one output row."""

    estimate: np.ndarray
    weights: np.ndarray
    exact: np.ndarray
    marks: np.ndarray
    index: np.ndarray
    bits: np.ndarray
    z: np.ndarray
    peaks: np.ndarray
    result: np.ndarray
    part: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def ghost_attend(query, cache, frames, records, rule, out, counts):
    """Attention of consecutive queries over what ghost records let through.

    A cold key is read when ``s_hat - lse >= theta`` for its head, lse over exact scores of sinks and hot window and
    estimates of cold keys; or when its record bounds nothing.

    Parameters
    ----------
    query : ndarray of float32, shape [batch, heads, queries, head_dim]
    out : ndarray of float32, shape [batch, queries, heads, value_dim]
    counts : ndarray of int32, shape [batch, kv_heads, queries, 3 + group]
    """
    batch, heads, queries, _ = query.shape
    kv_heads, tokens = cache.keys.shape[1], cache.keys.shape[2]
    group, value_dim = heads // kv_heads, cache.values.shape[3]
    room = _Scratch(
        np.empty((group, tokens), np.float32), np.empty((group, tokens), np.float32),
        np.empty((group, tokens), np.float32), np.empty(tokens, np.int64), np.empty(tokens, np.int64),
        np.empty(tokens, np.int32), np.empty(frames.decoder.shape[1], np.float32), np.empty(group, np.float32),
        np.empty(value_dim, np.float32), np.empty(value_dim, np.float32),
    )  # fmt: skip
    for row in range(batch):
        begin = cache.first[row]
        for kv in range(kv_heads):
            total = records.total[row, kv]
            stored = _Stored(
                cache.keys[row, kv], cache.values[row, kv], frames.offset[kv], frames.decoder[kv], frames.dims[kv],
                records.coordinates[row, kv], records.unbound[row, kv], total,
            )  # fmt: skip
            for t in range(queries):
                last = cache.past + t + 1
                if last <= begin:
                    out[row, t, kv * group : (kv + 1) * group] = 0.0
                    counts[row, kv, t] = 0
                    continue
                start = min(begin + rule.sinks, last)
                stop = max(last - rule.hot, start)
                cold = stop - start
                # Keys to read: exact ones first, survivors follow.
                known = 0
                for j in range(begin, start):
                    room.index[known] = j
                    known += 1
                for j in range(stop, last):
                    room.index[known] = j
                    known += 1
                room.marks[:cold] = 0
                place = _Place(start, stop, last - begin, known)
                for g in range(group):
                    head = kv * group + g
                    least = _decide(query[row, head, t], stored, place, rule, rule.theta[head], g, room)
                    unbound = stored.unbound[start:stop]
                    mark(room.estimate[g], least, unbound, np.int64(1) << g, room.marks, cold)
                kept = known
                for j in range(cold):
                    if room.marks[j]:
                        room.index[kept] = start + j
                        kept += 1
                advance_mean(stored.values, start, stop, total, records.span[row, kv])
                counts[row, kv, t, VISIBLE], counts[row, kv, t, COLD] = last - begin, cold
                counts[row, kv, t, UNITED] = kept - known
                for g in range(group):
                    head = kv * group + g
                    counts[row, kv, t, HEADS + g] = _attend(
                        query[row, head, t], stored, place, kept, rule, g, room, out[row, t, head]
                    )


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _decide(query, stored, place, rule, theta, g, room):
    """Exact scores of the known keys, estimates and weights of the cold ones; returns the least score that is read."""
    scale, z, exact, known = np.float32(rule.scale), room.z, room.exact[g], place.known
    scores(query, stored.keys, room.index, known, scale, rule.softcap, exact)
    shift = np.float32(0.0)
    for i in range(query.size):
        shift += query[i] * stored.offset[i]
    for c in range(stored.dims):
        s = np.float32(0.0)
        for i in range(query.size):
            s += query[i] * stored.decoder[c, i]
        z[c] = s * scale
    peak = estimates(
        stored.coordinates,
        z,
        shift * scale,
        stored.dims,
        place.start,
        place.stop,
        rule.softcap,
        room.estimate[g],
    )
    for i in range(known):
        peak = max(peak, exact[i])
    mass = exponentials(room.estimate[g], place.stop - place.start, peak, room.weights[g], room.bits)
    for i in range(known):
        mass += np.exp(exact[i] - peak)
    room.peaks[g] = peak
    least = np.float32(peak + np.log(mass)) + theta
    if rule.per_key:
        least -= np.float32(np.log(np.float64(place.visible)))
    return least


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _attend(query, stored, place, kept, rule, g, room, out):
    """One head's output over the keys that are read; returns how many of the survivors are its own."""
    bit, index, marks, row = np.int64(1) << g, room.index, room.marks, room.exact[g]
    known, start, cold = place.known, place.start, place.stop - place.start
    own = 0
    for i in range(known, kept):
        own += (marks[index[i] - start] & bit) != 0
    scores(query, stored.keys, index[known:], kept - known, np.float32(rule.scale), rule.softcap, row[known:])
    if not rule.shared:
        for i in range(known, kept):
            if not marks[index[i] - start] & bit:
                row[i] = -np.inf
    top = np.float32(-np.inf)
    for i in range(kept):
        top = max(top, row[i])
    mass = exponentials(row, kept, top, row, room.bits)
    if not rule.shared:
        # What lies far below still has a weight in `exponentials`; what is not read has none.
        mass = 0.0
        for i in range(kept):
            if i >= known and not marks[index[i] - start] & bit:
                row[i] = 0.0
            mass += row[i]
    weighted(row, stored.values, index, kept, room.part, room.result)
    tail = 0.0
    if rule.compensate and cold > 0:
        unread_of = np.int64((1 << len(room.exact)) - 1) if rule.shared else bit
        weights, peak = room.weights[g], room.peaks[g]
        if peak > top + HIGHEST:
            # Estimates tower above all that was read, and what `exponentials` makes of the others is no longer theirs.
            peak = top + HIGHEST
            hold(room.estimate[g], cold, peak, weights)
            exponentials(weights, cold, peak, weights, room.bits)
        tail = unread_mass(weights, marks, unread_of, cold) * np.exp(peak - top)
    if tail == 0.0:
        for d in range(out.size):
            out[d] = room.result[d] / mass
    else:
        for d in range(out.size):
            mean = stored.total[d] / cold
            out[d] = (room.result[d] + tail * mean) / (mass + tail)
    return own
