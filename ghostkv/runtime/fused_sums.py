"""The loops of fused attention, each over the keys of one head and query: what the processor takes several of at once."""

from __future__ import annotations

import numpy as np

from ghostkv.files.compiled import njit
from ghostkv.runtime.lanes import number

# Sums may be reordered and scores are finite; infinities mean something (theta, unread records).
FAST = {"contract", "reassoc", "nsz", "nnan"}
_LOG2E = np.float32(1.4426950408889634)
# ln 2 in two parts, the first exact in few bits, so that subtracting whole multiples loses nothing (Cody and Waite
# 1980); Taylor coefficients of e^r, whose remainder is below 4e-8 for |r| <= ln(2) / 2.
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_C2, _C3, _C4 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_C5, _C6, _C7 = np.float32(1 / 120), np.float32(1 / 720), np.float32(1 / 5040)
# Values are summed in runs of this many keys, so that float32 rounding does not grow with the length of a text.
_RUN = 64


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
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


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def estimates(coordinates, z, offset, dims, start, stop, softcap, out):
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


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def mark(estimate, least, unbound, bit, marks, count):
    for j in range(count):
        marks[j] |= bit if (estimate[j] >= least or unbound[j]) else np.int64(0)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def hold(values, count, most, out):
    """The lesser of each value and `most`."""
    for j in range(count):
        out[j] = min(values[j], most)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def unread_mass(weights, marks, bit, count):
    """Estimated mass of the keys that a head did not read."""
    total = 0.0
    for j in range(count):
        total += np.float32(0.0) if marks[j] & bit else weights[j]
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def scores(query, keys, index, count, scale, softcap, out):
    for i in range(count):
        key = keys[index[i]]
        s = np.float32(0.0)
        for d in range(query.size):
            s += query[d] * key[d]
        s *= scale
        out[i] = np.float32(softcap) * np.tanh(s / np.float32(softcap)) if softcap > 0.0 else s


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def weighted(weights, values, index, count, part, out):
    out[:] = 0.0
    for begin in range(0, count, _RUN):
        part[:] = 0.0
        for i in range(begin, min(begin + _RUN, count)):
            value, w = values[index[i]], weights[i]
            for d in range(part.size):
                part[d] += w * value[d]
        for d in range(part.size):
            out[d] += part[d]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def advance_mean(values, start, stop, total, span):
    """Bring the running sum of V over the cold keys to start..stop."""
    if span[0] != start or span[1] > stop:
        total[:] = 0.0
        span[0] = span[1] = start
    for j in range(span[1], stop):
        for d in range(total.size):
            total[d] += number(values[j, d])
    span[1] = stop
