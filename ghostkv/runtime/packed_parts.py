"""The loops of a decode step over packed records: a part of a KV head's keys is scanned, then its survivors are read.

Between scan and reading stands the log-sum-exp of the whole head, so parts of one head meet there; what parts read is
joined like the parts of a split softmax.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ghostkv.files.compiled import njit
from ghostkv.runtime.fused_sums import FAST, advance_mean
from ghostkv.runtime.lanes import LANES, add_rows, dot_rows, fetch_rows
from ghostkv.runtime.packed_records import query_weights
from ghostkv.runtime.packed_scan import CHUNK, SIDE_BY_SIDE, least_sum, merged, raised, scan, score_of

_LOG2E = 1.4426950408889634
# Survivors whose scores are held at once.
_ROWS = 64
# Columns of what is counted for each KV head; survivors of each of its heads follow.
CANDIDATES, SURVIVORS, HEADS = range(3)


class PackedCache(NamedTuple):
    """K and V of a layer, ``[kv_heads, tokens or more, dim]``: float32, or bfloat16 as uint16."""

    keys: np.ndarray
    values: np.ndarray


class PackedRecords(NamedTuple):
    """Codes uint8 [kv_heads, blocks, 64 * rows] and rho uint8 [kv_heads, 16 * blocks], and the running sum of V over the
    cold keys, float64 [kv_heads, value_dim]."""

    codes: np.ndarray
    rho: np.ndarray
    total: np.ndarray


class PackedRule(NamedTuple):
    """Which cold keys are read; `theta` float64 [heads] in nats, as the log of a share of the softmax."""

    theta: np.ndarray
    scale: float
    softcap: float
    compensate: bool


class Place(NamedTuple):
    """What a query sees: tokens first..tokens, of which start..stop are cold."""

    first: int
    start: int
    stop: int
    tokens: int

    @classmethod
    def of(cls, first: int, tokens: int, sinks: int, hot: int) -> Place:
        """The query of token ``tokens - 1``, whose row of the batch begins at `first`."""
        start = min(first + sinks, tokens)
        return cls(first, start, max(tokens - hot, start), tokens)

    @property
    def cold(self) -> int:
        """How many keys are cold."""
        return self.stop - self.start


class Room(NamedTuple):
    """What parts write; the first two axes are KV head and part."""

    weights: np.ndarray  # int32 [kv_heads, parts, words]
    unit: np.ndarray  # float64 [kv_heads, parts, group]; so are the next three
    bias: np.ndarray
    known: np.ndarray  # log-sum-exp of sinks and hot window
    lse: np.ndarray  # log-sum-exp of estimates
    index: np.ndarray  # int32 [kv_heads, keys]
    sums: np.ndarray  # int32 [kv_heads, keys, group]
    found: np.ndarray  # int64 [kv_heads, parts, 2 + group]; as it is counted
    # float64 [kv_heads, parts, group]: largest score, sum of weights, and estimated mass of what was read
    peak: np.ndarray
    mass: np.ndarray
    read: np.ndarray
    out: np.ndarray  # float32 [kv_heads, parts, group, value_dim]


@njit(cache=True, nogil=True, error_model="numpy")
def span(place, part, parts):
    """Cold keys of a part; all parts but the first begin at a whole block."""
    start, stop = place.start, place.stop
    base = start // LANES * LANES
    each = -(-(stop - base) // (parts * LANES)) * LANES
    low, high = max(base + part * each, start), max(base + (part + 1) * each, start)
    return min(low, stop), min(high, stop)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def _exact_scores(queries, keys, index, count, unit, cap, out):
    """Scores of some keys for the heads of a group, in powers of 2, out [group, count or more]."""
    group = queries.shape[0]
    for first in range(0, group, SIDE_BY_SIDE):
        heads = min(SIDE_BY_SIDE, group - first)
        if heads == 4:
            dot_rows(4, queries, first, keys, index, count, out)
        elif heads == 3:
            dot_rows(3, queries, first, keys, index, count, out)
        elif heads == 2:
            dot_rows(2, queries, first, keys, index, count, out)
        else:
            dot_rows(1, queries, first, keys, index, count, out)
    for g in range(group):
        for i in range(count):
            out[g, i] *= unit
        if cap > 0.0:
            for i in range(count):
                out[g, i] = cap * np.tanh(out[g, i] / cap)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def _add_values(values, index, count, weights, out):
    """Add weighted values to the sums of a group's heads, out [group, value_dim]."""
    group = out.shape[0]
    for first in range(0, group, SIDE_BY_SIDE):
        heads = min(SIDE_BY_SIDE, group - first)
        if heads == 4:
            add_rows(4, weights, first, values, index, count, out)
        elif heads == 3:
            add_rows(3, weights, first, values, index, count, out)
        elif heads == 2:
            add_rows(2, weights, first, values, index, count, out)
        else:
            add_rows(1, weights, first, values, index, count, out)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def attend_rows(queries, keys, values, chosen, scale, softcap, peak, mass, out):
    """Let the heads of a group attend to some rows, beside all that they have attended to before.

    Of each head `peak` is the largest score so far, in powers of 2 (-inf at first), and `mass` and `out` are the sums of
    ``2^(score - peak)`` and of that times V; float64 [group] and float32 [group, value_dim].
    """
    group = queries.shape[0]
    scores = np.empty((group, _ROWS), np.float32)
    unit, cap = np.float32(scale * _LOG2E), np.float32(softcap * _LOG2E)
    for first in range(0, chosen.size, _ROWS):
        count = min(_ROWS, chosen.size - first)
        some = chosen[first : first + count]
        fetch_rows(values, some, count)
        _exact_scores(queries, keys, some, count, unit, cap, scores)
        for g in range(group):
            most = np.float32(peak[g])
            for i in range(count):
                most = max(most, scores[g, i])
            if most > peak[g]:
                factor = np.float32(2.0 ** (peak[g] - most))
                mass[g] *= factor
                for d in range(out.shape[1]):
                    out[g, d] *= factor
                peak[g] = most
            mass[g] += raised(scores[g], count, most)
        _add_values(values, some, count, scores, out)


@njit(cache=True, nogil=True, error_model="numpy")
def scan_part(kv, part, parts, query, place, cache, frames, records, rule, room):
    """Look at the records of a part of a KV head's keys; candidates, masses and weights are left in the room."""
    group, words = room.unit.shape[2], frames.decoder.shape[1] // 4
    queries = query[kv * group : (kv + 1) * group]
    weights = room.weights[kv, part]
    unit, bias = room.unit[kv, part], room.bias[kv, part]
    rows = frames.rows[kv]
    fields = 4 * (rows[0] + 2 * rows[1] + 4 * rows[2])
    for first in range(0, group, SIDE_BY_SIDE):
        last = min(first + SIDE_BY_SIDE, group)
        some = weights[first * words : last * words].view(np.int8).reshape(words, last - first, 4)
        query_weights(
            queries[first:last], frames.offset[kv], frames.decoder[kv, :fields], frames.middle[kv], rule.scale, some,
            unit[first:last], bias[first:last],
        )  # fmt: skip
    exact = np.concatenate((np.arange(place.first, place.start), np.arange(place.stop, place.tokens)))
    scores = np.empty((group, exact.size), np.float32)
    cap = rule.softcap * _LOG2E
    _exact_scores(
        queries, cache.keys[kv], exact, exact.size, np.float32(rule.scale * _LOG2E), np.float32(cap), scores
    )
    known = room.known[kv, part]
    for g in range(group):
        known[g] = -np.inf
        for i in range(exact.size):
            known[g] = merged(known[g], np.float64(scores[g, i]))
    low, high = span(place, part, parts)
    theta = rule.theta[kv * group : (kv + 1) * group] * _LOG2E
    room.found[kv, part, CANDIDATES] = scan(
        records.codes[kv].reshape(-1), records.rho[kv], weights, rows, unit, bias, cap, theta, low, high, known,
        room.lse[kv, part], np.empty((group, CHUNK), np.int32), np.empty(CHUNK, np.uint8),
        room.index[kv, low:high], room.sums[kv, low:high],
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def read_part(kv, part, parts, query, place, cache, records, rule, room):
    """Attend to the survivors of a part of a KV head's keys; the first part also to sinks and hot window."""
    group = room.unit.shape[2]
    queries = query[kv * group : (kv + 1) * group]
    unit, bias, cap = room.unit[kv, part], room.bias[kv, part], rule.softcap * _LOG2E
    low, high = span(place, part, parts)
    index, sums = room.index[kv, low:high], room.sums[kv, low:high]
    least = np.empty(group, np.int64)
    for g in range(group):
        lse = room.known[kv, part, g]
        for p in range(parts):
            lse = merged(lse, room.lse[kv, p, g])
        theta = rule.theta[kv * group + g] * _LOG2E
        least[g] = least_sum(lse + theta, unit[g], bias[g], cap)
    # Survivors in the place of candidates.
    kept, found = 0, room.found[kv, part]
    found[HEADS:] = 0
    for i in range(found[CANDIDATES]):
        unbound = records.rho[kv, index[i]] == 255
        alive = unbound
        for g in range(group):
            own = unbound or sums[i, g] >= least[g]
            found[HEADS + g] += own
            alive |= own
        if alive:
            index[kept] = index[i]
            sums[kept] = sums[i]
            kept += 1
    found[SURVIVORS] = kept
    peak, mass, read, out = room.peak[kv, part], room.mass[kv, part], room.read[kv, part], room.out[kv, part]
    for g in range(group):
        peak[g], mass[g], read[g] = -np.inf, 0.0, 0.0
        shift = room.lse[kv, part, g]
        for i in range(kept):
            read[g] += 2.0 ** (score_of(sums[i, g], unit[g], bias[g], cap) - shift)
    out[:] = 0.0
    sinks = place.start - place.first
    exact = sinks + place.tokens - place.stop if part == 0 else 0
    chosen = np.empty(exact + kept, np.int64)
    for i in range(exact):
        chosen[i] = place.first + i if i < sinks else place.stop + i - sinks
    chosen[exact:] = index[:kept]
    attend_rows(queries, cache.keys[kv], cache.values[kv], chosen, rule.scale, rule.softcap, peak, mass, out)


@njit(cache=True, nogil=True, error_model="numpy")
def advance_means(values, start, stop, total, span):
    """Bring the running sums of V over the cold keys to start..stop, for all KV heads."""
    for kv in range(values.shape[0]):
        advance_mean(values[kv], start, stop, total[kv], span[kv])


@njit(cache=True, nogil=True, error_model="numpy")
def join_parts(kv, parts, place, records, rule, room, out, counts):
    """One output of a group from the sums of its parts."""
    group, cold = room.unit.shape[2], place.stop - place.start
    counts[kv] = 0
    for p in range(parts):
        counts[kv] += room.found[kv, p]
    for g in range(group):
        top = room.peak[kv, :parts, g].max()
        result, mass, tail = out[kv * group + g], 0.0, 0.0
        result[:] = 0.0
        for p in range(parts):
            factor = 2.0 ** (room.peak[kv, p, g] - top)
            mass += factor * room.mass[kv, p, g]
            result += np.float32(factor) * room.out[kv, p, g]
            if rule.compensate and room.lse[kv, p, g] > -np.inf:
                left = max(1.0 - room.read[kv, p, g], 0.0)
                tail += left * 2.0 ** min(room.lse[kv, p, g] - top, 126.0)
        if tail > 0.0:
            result += (records.total[kv] * (tail / cold)).astype(np.float32)
        result /= np.float32(mass + tail)
