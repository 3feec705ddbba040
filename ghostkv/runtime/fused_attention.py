"""One decode step of attention under elimination, fused: estimate, threshold, gather, softmax, tail.

One call serves any number of consecutive queries of a layer. A single decode step is a block of one query, so both
ways of running a model go through the same arithmetic: every query sees its own causal past, its own cold keys and
its own survivors. Nothing is materialised beyond one query of one group.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Columns of what `ghost_attend` counts for each query and KV head; survivors of each head follow.
VISIBLE, COLD, UNITED, HEADS = range(4)

# Sums may be reordered and scores are finite; infinities mean something (theta, unread records).
_FAST = {"contract", "reassoc", "nsz", "nnan"}
_LOG2E = np.float32(1.4426950408889634)
# ln 2 in two parts, the first exact in few bits, so that subtracting whole multiples loses nothing (Cody and Waite
# 1980); Taylor coefficients of e^r, whose remainder is below 4e-8 for |r| <= ln(2) / 2.
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_C2, _C3, _C4 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_C5, _C6, _C7 = np.float32(1 / 120), np.float32(1 / 720), np.float32(1 / 5040)
# Values are summed in runs of this many keys, so that float32 rounding does not grow with the length of a text.
_RUN = 64


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST, inline="never")
def exponentials(x, count, shift, out, bits):
    """``out[j] = e^(x[j] - shift)`` for the first `count` entries, in vector instructions; returns the sum.

    Parameters
    ----------
    x, out : ndarray of float32
    shift : float32
        At least the largest of them; what lies more than 87 below counts as e^-87.
    bits : ndarray of int32
        Scratch of the same length.
    """
    for j in range(count):
        y = max(x[j] - shift, np.float32(-87.0))
        whole = np.floor(y * _LOG2E + np.float32(0.5))
        r = (y - whole * _LN2_HIGH) - whole * _LN2_LOW
        tail = _C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7))))
        out[j] = np.float32(1.0) + (r + r * r * tail)
        bits[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    power = bits.view(np.float32)
    total = 0.0
    for j in range(count):
        out[j] *= power[j]
        total += out[j]
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST, inline="never")
def _estimates(coordinates, z, offset, dims, start, stop, softcap, out):
    """Scores seen from records; returns the largest."""
    count = stop - start
    for j in range(count):
        out[j] = offset
    for c in range(dims):
        row, factor = coordinates[c, start:stop], z[c]
        for j in range(count):
            out[j] += factor * row[j]
    if softcap > 0.0:
        for j in range(count):
            out[j] = np.float32(softcap) * np.tanh(out[j] / np.float32(softcap))
    peak = np.float32(-np.inf)
    for j in range(count):
        peak = max(peak, out[j])
    return peak


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST, inline="never")
def _mark(estimate, least, unbound, bit, marks, count):
    for j in range(count):
        marks[j] |= bit if (estimate[j] >= least or unbound[j]) else np.int64(0)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST, inline="never")
def _tail(weights, marks, bit, count):
    """Estimated mass of the keys that a head did not read."""
    total = 0.0
    for j in range(count):
        total += np.float32(0.0) if marks[j] & bit else weights[j]
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST, inline="never")
def _scores(query, keys, index, count, scale, softcap, out):
    for i in range(count):
        key = keys[index[i]]
        s = np.float32(0.0)
        for d in range(query.size):
            s += query[d] * key[d]
        s *= scale
        out[i] = np.float32(softcap) * np.tanh(s / np.float32(softcap)) if softcap > 0.0 else s


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST, inline="never")
def _weighted(weights, values, index, count, part, out):
    out[:] = 0.0
    for begin in range(0, count, _RUN):
        part[:] = 0.0
        for i in range(begin, min(begin + _RUN, count)):
            value, w = values[index[i]], weights[i]
            for d in range(part.size):
                part[d] += w * value[d]
        for d in range(part.size):
            out[d] += part[d]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _advance_mean(values, start, stop, total, span):
    """Bring the running sum of V over the cold keys to start..stop."""
    if span[0] != start or span[1] > stop:
        total[:] = 0.0
        span[0] = span[1] = start
    for j in range(span[1], stop):
        for d in range(total.size):
            total[d] += values[j, d]
    span[1] = stop


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def ghost_attend(
    query, keys, values, first, past, sinks, hot, scale, softcap, frame, records, theta, per_key, shared, compensate,
    running, out, counts,
):  # fmt: skip
    """Attention of consecutive queries over what ghost records let through.

    A cold key is read when ``s_hat - lse >= theta`` for its head, lse over exact scores of sinks and hot window and
    estimates of cold keys; or when its record bounds nothing.

    Parameters
    ----------
    query : ndarray of float32, shape [batch, heads, queries, head_dim]
    keys, values : ndarray of float32, shape [batch, kv_heads, tokens, dim]
        The cache; the queries are its last tokens.
    first : ndarray of int64, shape [batch]
        First visible token: the left padding of each row.
    past : int
        Tokens before the first query.
    sinks, hot : int
    scale, softcap : float
    frame : tuple of ndarray
        ``offset`` [kv_heads, head_dim], ``decoder`` [kv_heads, dims, head_dim] float32, ``dims`` [kv_heads].
    records : tuple of ndarray
        ``coordinates`` and ``unbound`` as `write_records` fills them.
    theta : ndarray of float32, shape [heads]
    per_key : bool
        Theta counts from the uniform share ``1 / visible`` instead of from 1: the threshold falls as a text grows.
    shared : bool
        Every head of a group attends to the union of the group's survivors, which is read anyway.
    compensate : bool
        Give the estimated mass of what was not read to the mean of V over the cold keys.
    running : tuple of ndarray
        Sum of V over cold keys [batch, kv_heads, value_dim] and the span it covers [batch, kv_heads, 2].
    out : ndarray of float32, shape [batch, queries, heads, value_dim]
    counts : ndarray of int32, shape [batch, kv_heads, queries, 3 + group]
    """
    batch, heads, queries, width = query.shape
    kv_heads, tokens = keys.shape[1], keys.shape[2]
    group = heads // kv_heads
    offset, decoder, dims = frame
    coordinates, unbound = records
    total, span = running
    estimate = np.empty((group, tokens), np.float32)
    weights = np.empty((group, tokens), np.float32)
    marks, index = np.empty(tokens, np.int64), np.empty(tokens, np.int64)
    exact = np.empty((group, tokens), np.float32)
    bits = np.empty(tokens, np.int32)
    z = np.empty(decoder.shape[1], np.float32)
    peaks, result = np.empty(group, np.float32), np.empty(values.shape[3], np.float32)
    part = np.empty(values.shape[3], np.float32)
    scale32 = np.float32(scale)
    every = np.int64((1 << group) - 1)
    for b in range(batch):
        for h in range(kv_heads):
            for t in range(queries):
                last = past + t + 1
                begin = first[b]
                if last <= begin:
                    out[b, t, h * group : (h + 1) * group] = 0.0
                    counts[b, h, t] = 0
                    continue
                start = min(begin + sinks, last)
                stop = max(last - hot, start)
                cold = stop - start
                known = 0
                for j in range(begin, start):
                    index[known] = j
                    known += 1
                for j in range(stop, last):
                    index[known] = j
                    known += 1
                marks[:cold] = 0
                for g in range(group):
                    q = query[b, h * group + g, t]
                    _scores(q, keys[b, h], index, known, scale32, softcap, exact[g])
                    shift = np.float32(0.0)
                    for i in range(width):
                        shift += q[i] * offset[h, i]
                    for c in range(dims[h]):
                        s = np.float32(0.0)
                        for i in range(width):
                            s += q[i] * decoder[h, c, i]
                        z[c] = s * scale32
                    peak = _estimates(
                        coordinates[b, h], z, shift * scale32, dims[h], start, stop, softcap, estimate[g]
                    )
                    for i in range(known):
                        peak = max(peak, exact[g, i])
                    mass = exponentials(estimate[g], cold, peak, weights[g], bits)
                    for i in range(known):
                        mass += np.exp(exact[g, i] - peak)
                    peaks[g] = peak
                    least = np.float32(peak + np.log(mass)) + theta[h * group + g]
                    if per_key:
                        least -= np.float32(np.log(np.float64(last - begin)))
                    _mark(estimate[g], least, unbound[b, h, start:stop], np.int64(1) << g, marks, cold)
                kept = known
                for j in range(cold):
                    if marks[j]:
                        index[kept] = start + j
                        kept += 1
                _advance_mean(values[b, h], start, stop, total[b, h], span[b, h])
                counts[b, h, t, VISIBLE], counts[b, h, t, COLD] = last - begin, cold
                counts[b, h, t, UNITED] = kept - known
                for g in range(group):
                    bit = np.int64(1) << g
                    own = 0
                    for i in range(known, kept):
                        own += (marks[index[i] - start] & bit) != 0
                    counts[b, h, t, HEADS + g] = own
                    row = exact[g]
                    _scores(
                        query[b, h * group + g, t],
                        keys[b, h],
                        index[known:],
                        kept - known,
                        scale32,
                        softcap,
                        row[known:],
                    )
                    if not shared:
                        for i in range(known, kept):
                            if not marks[index[i] - start] & bit:
                                row[i] = -np.inf
                    top = np.float32(-np.inf)
                    for i in range(kept):
                        top = max(top, row[i])
                    mass = exponentials(row, kept, top, row, bits)
                    if not shared:
                        mass = 0.0
                        for i in range(kept):
                            if i >= known and not marks[index[i] - start] & bit:
                                row[i] = 0.0
                            mass += row[i]
                    _weighted(row, values[b, h], index, kept, part, result)
                    tail = 0.0
                    if compensate and cold > 0:
                        tail = _tail(weights[g], marks, every if shared else bit, cold) * np.exp(
                            peaks[g] - top
                        )
                    if tail > 0.0:
                        for d in range(result.size):
                            mean = total[b, h, d] / cold
                            out[b, t, h * group + g, d] = (result[d] + tail * mean) / (mass + tail)
                    else:
                        for d in range(result.size):
                            out[b, t, h * group + g, d] = result[d] / mass
