"""The scan of packed records: one pass that finds the mass of the cold keys and who may survive.

Which keys survive depends on the log-sum-exp of all scores, known only at the end. What is known before, the exact
scores of sinks and hot window and the estimates so far, is a lower bound of it. A key below the threshold of that
bound is below the last one too, so each key is looked at once and candidates are the few that remain. There is nothing to
fall back to, because the bound is no guess.
"""

from __future__ import annotations

import numpy as np

from ghostkv.files.compiled import njit
from ghostkv.runtime.fused_sums import FAST
from ghostkv.runtime.lanes import LANES, add_block, as_float

# Keys whose integer scores lie in the first cache at once.
CHUNK = 1024
# Heads whose weights share one unpacking of a block.
SIDE_BY_SIDE = 4
# Integer score of what is no cold key, far below any sum of levels and weights.
NOTHING = np.int32(-(1 << 30))
_MOST = float(1 << 29)
# ln(2)^n / n!: Taylor coefficients of 2^r, whose remainder is below 2e-7 for |r| <= 1/2.
_C1, _C2, _C3 = (
    np.float32(0.6931471805599453),
    np.float32(0.2402265069591007),
    np.float32(0.05550410866482158),
)
_C4, _C5, _C6 = (
    np.float32(0.009618129107628477),
    np.float32(1.3333558146428443e-3),
    np.float32(1.5403530393381608e-4),
)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def chunk_scores(codes, each, block, blocks, weights, first, rows, heads, out):
    """Integer scores of the keys of some blocks, of `each` bytes, for up to 4 heads."""
    e, f, t = rows[0], rows[1], rows[2]
    if heads == 4:
        for b in range(blocks):
            add_block(4, codes, (block + b) * each, weights, first, e, f, t, out, b * LANES)
    elif heads == 3:
        for b in range(blocks):
            add_block(3, codes, (block + b) * each, weights, first, e, f, t, out, b * LANES)
    elif heads == 2:
        for b in range(blocks):
            add_block(2, codes, (block + b) * each, weights, first, e, f, t, out, b * LANES)
    else:
        for b in range(blocks):
            add_block(1, codes, (block + b) * each, weights, first, e, f, t, out, b * LANES)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def largest(row, count):
    most = NOTHING
    for j in range(count):
        most = max(most, row[j])
    return most


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def powers(row, count, most, unit):
    """Sum of ``2^(unit * (row - most))``; what lies more than 126 below counts as 2^-126."""
    total = np.float32(0.0)
    for j in range(count):
        y = max(np.float32(np.int32(row[j] - most)) * unit, np.float32(-126.0))
        whole = np.rint(y)
        r = y - whole
        p = _C1 + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6))))
        total += (np.float32(1.0) + r * p) * as_float((np.int32(whole) + np.int32(127)) << np.int32(23))
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def raised(row, count, most):
    """``2^(row - most)`` in its place, row of float32; returns the sum."""
    total = np.float32(0.0)
    for j in range(count):
        y = max(row[j] - most, np.float32(-126.0))
        whole = np.rint(y)
        r = y - whole
        p = _C1 + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6))))
        row[j] = (np.float32(1.0) + r * p) * as_float((np.int32(whole) + np.int32(127)) << np.int32(23))
        total += row[j]
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def capped_powers(row, count, unit, bias, cap, peak):
    """Sum of ``2^(score - peak)`` where scores have a soft cap."""
    total = 0.0
    for j in range(count):
        total += 2.0 ** (cap * np.tanh((bias + unit * row[j]) / cap) - peak)
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def mark(row, count, least, marks):
    for j in range(count):
        marks[j] |= np.uint8(1) if row[j] >= least else np.uint8(0)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST, inline="never")
def mark_unbound(rho, count, marks):
    for j in range(count):
        marks[j] = np.uint8(1) if rho[j] == 255 else np.uint8(0)


@njit(cache=True, nogil=True, error_model="numpy")
def score_of(level_sum, unit, bias, cap):
    """The estimate, in powers of 2."""
    score = bias + unit * level_sum
    return cap * np.tanh(score / cap) if cap > 0.0 else score


@njit(cache=True, nogil=True, error_model="numpy")
def least_sum(score, unit, bias, cap):
    """The least integer score whose estimate reaches `score`."""
    if cap > 0.0:
        if score > cap:
            return np.int32(_MOST)
        if score < -cap:
            return NOTHING
        score = cap * np.arctanh(score / cap)
    return np.int32(np.ceil(min(max((score - bias) / unit, -_MOST), _MOST)))


@njit(cache=True, nogil=True, error_model="numpy")
def merged(lse, other):
    """``log2(2^lse + 2^other)``."""
    most = max(lse, other)
    return most if most == -np.inf else most + np.log2(2.0 ** (lse - most) + 2.0 ** (other - most))


@njit(cache=True, nogil=True, error_model="numpy")
def scan(
    codes, rho, weights, rows, unit, bias, cap, theta, start, stop, known, lse, chunk, marks, index, sums
):
    """Scan the records of the cold keys start..stop of one KV head.

    Parameters
    ----------
    codes, rho : ndarray of uint8
        Of the KV head, flat.
    weights : ndarray of int32, flat
        As `query_weights` writes them, in slices of 4 heads.
    known : ndarray of float64, shape [group]
        Log-sum-exp (base 2) of what is known exactly.
    lse : ndarray of float64, shape [group]
        Filled with that of the estimates.
    chunk : ndarray of int32, shape [group, CHUNK]
    marks : ndarray of uint8, shape [CHUNK]
    index, sums : ndarray of int32, shapes [keys] and [keys, group]
        Candidates and their integer scores.

    Returns
    -------
    int
        How many candidates there are.
    """
    group, found = unit.size, 0
    words_a_head = rows[0] + 2 * rows[1] + 4 * rows[2]
    each = codes.size // (rho.size // LANES)
    lse[:] = -np.inf
    words = marks.view(np.uint64)
    at = start // LANES * LANES
    while at < stop:
        end = min(at + CHUNK, -(-stop // LANES) * LANES)
        count, low, high = end - at, max(start - at, 0), min(stop - at, end - at)
        mark_unbound(rho[at:end], count, marks)
        for slice_ in range(0, group, SIDE_BY_SIDE):
            heads = min(SIDE_BY_SIDE, group - slice_)
            chunk_scores(
                codes,
                each,
                at // LANES,
                count // LANES,
                weights,
                slice_ * words_a_head,
                rows,
                heads,
                chunk[slice_:],
            )
        for g in range(group):
            row = chunk[g]
            row[:low] = NOTHING
            row[high:count] = NOTHING
            most = largest(row, count)
            peak = score_of(most, unit[g], bias[g], cap)
            if cap > 0.0:
                total = capped_powers(row[low:high], high - low, unit[g], bias[g], cap, peak)
            else:
                total = np.float64(powers(row, count, most, np.float32(unit[g])))
            lse[g] = merged(lse[g], peak + np.log2(total))
            # One step lower, so that no rounding of sums loses what the last threshold would keep.
            least = least_sum(merged(lse[g], known[g]) + theta[g], unit[g], bias[g], cap) - 1
            mark(row, count, np.int32(least), marks)
        marks[:low] = 0
        marks[high : -(-count // 8) * 8] = 0
        for word in range(-(-count // 8)):
            if words[word]:
                for j in range(8 * word, 8 * word + 8):
                    if marks[j]:
                        index[found] = at + j
                        for g in range(group):
                            sums[found, g] = chunk[g, j]
                        found += 1
        at = end
    return found
