"""The loop of the dropped-mass certificate: one query head after the other.

Exact masses are read after every decision is made, to verify it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ghostkv.elimination.topk_loop import (
    CERTIFIED,
    DEPTH_ADDITIVE,
    DEPTH_NESTED,
    DROPPED,
    ERROR,
    ERROR_BOUND,
    FALLBACK,
    FULL_ADDITIVE,
    FULL_NESTED,
    VALUE,
    VIOLATED,
    charge,
    charge_group,
    unite,
)

# Bounds on a logarithmic scale below the budget, 16 bins a unit; what lies lower shares the first bin.
_BINS, _BINS_PER_UNIT = 768, 16.0
# Relative error of exp(x - top) in float32 for x - top > -87 (2^-24 * 87 from the subtraction, 3 ulp from exp), and
# what any term below that can be; the sums themselves are float64. Derived in docs/certificates.md.
EXP_SLACK, EXP_TINY = 2.0**-17, 2.0e-38


@njit(cache=True, nogil=True, error_model="numpy")
def mass_loop(
    upper, lower, top, exact_mass, ranges, delta, shares, costs, powers, mass, values, value_norm, outputs, out,
    group_bytes,
    kept_keys,
):  # fmt: skip
    """Cascade of the dropped-mass certificate; see `ghostkv.elimination.certificates.certify_mass`.

    `powers` holds exp(upper - top), exp(middle - top) of every level and exp(lower - top) of the last.
    """
    above, middle, below = powers
    levels, group, queries, keys = upper.shape[0] - 1, upper.shape[1], upper.shape[2], upper.shape[3]
    first, start, stop, last = ranges
    odds = delta / (1.0 - delta)
    open_, done, done_level = np.empty(keys, np.int64), np.empty(keys, np.int64), np.empty(keys, np.int64)
    bins, hist = np.empty(keys, np.int64), np.empty(_BINS)
    use, united = np.zeros((5, keys), np.uint8), np.zeros((5, keys), np.uint8)
    for q in range(queries):
        a, b = start[q], max(stop[q], start[q])
        united[:, a:b] = 0
        for g in range(group):
            use[:, a:b] = 0
            n, stopped = b - a, 0
            for i in range(n):
                open_[i] = a + i
            spent, guess_stopped, kept_exact = 0.0, 0.0, exact_mass[g, q]
            for level in range(levels):
                # A guess of the budget from estimates: it only says who stops early, the proof comes at the end.
                guess = kept_exact + guess_stopped
                for i in range(n):
                    j = open_[i]
                    guess += middle[level, g, q, j]
                    use[DEPTH_NESTED, j] = level + 1
                    if not use[FULL_ADDITIVE, j]:
                        use[DEPTH_ADDITIVE, j] = level + 1
                budget = shares[level] * delta * guess
                limit = np.log(max(budget, 1e-300))
                cut, spent = _lowest(
                    upper[level, g, q], above[level, g, q], top[g, q], open_, n, spent, budget, bins, hist
                )
                left = 0
                for i in range(n):
                    j = open_[i]
                    term = above[level, g, q, j]
                    if bins[i] < cut or (bins[i] == cut and spent + term <= budget):
                        spent += term if bins[i] == cut else 0.0
                        done[stopped], done_level[stopped] = j, level
                        stopped += 1
                        guess_stopped += middle[level, g, q, j]
                    else:
                        open_[left] = j
                        left += 1
                        # A key whose mass alone breaks the budget will stay: beside a float16 K, read that at once.
                        if lower[level, g, q, j] - top[g, q] > limit:
                            use[FULL_ADDITIVE, j] = 1
                n = left
            kept = kept_exact
            for i in range(n):
                kept += below[g, q, open_[i]]
            spent, kept, stopped, n = _prove_stopped(
                above, below, g, q, done, done_level, stopped, open_, n, kept, odds, out[g, q]
            )
            for i in range(n):
                use[FULL_NESTED, open_[i]] = 1
                use[FULL_ADDITIVE, open_[i]] = 1
            spent, kept = _drop_known(
                upper[levels, g, q],
                above[levels, g, q],
                below[g, q],
                top[g, q],
                open_,
                n,
                spent,
                kept,
                odds,
                use,
                bins,
                hist,
            )
            out[g, q, CERTIFIED] = spent / (spent + kept) if spent > 0.0 else 0.0
            dropped = 0.0
            for j in range(a, b):
                if not use[VALUE, j]:
                    dropped += mass[g, q, j]
            out[g, q, DROPPED] = dropped
            out[g, q, VIOLATED] = dropped > delta
            if values.shape[1]:
                _output_error(
                    use, a, b, first[q], last[q], mass[g, q], values, value_norm, outputs[g, q], out[g, q]
                )
            kept_keys[g, q, first[q] : last[q]] = 1
            kept_keys[g, q, a:b] = use[VALUE, a:b]
            charge(use, a, b, last[q] - first[q], costs, out[g, q])
            unite(use, united, a, b)
        charge_group(united, a, b, last[q] - first[q], costs, group_bytes[q])


@njit(cache=True, nogil=True, error_model="numpy")
def _lowest(up, power, top, open_, n, spent, budget, bins, hist):
    """Fill a budget with the lowest upper bounds first.

    Returns the bin that no longer fits as a whole and what the bins below it add up to; `bins` names every key's
    bin, those that can never fit one beyond the last.
    """
    hist[:] = 0.0
    limit = np.float32(np.log(max(budget, 1e-300)))
    for i in range(n):
        j = open_[i]
        x = up[j] - top
        if x < limit:
            depth = (limit - x) * np.float32(_BINS_PER_UNIT)
            bins[i] = _BINS - 1 - (np.int64(depth) if depth < _BINS - 1 else _BINS - 1)
            hist[bins[i]] += power[j]
        else:
            bins[i] = _BINS
    cut = 0
    while cut < _BINS and spent + hist[cut] <= budget:
        spent += hist[cut]
        cut += 1
    return cut, spent


@njit(cache=True, nogil=True, error_model="numpy")
def _prove_stopped(above, below, g, q, done, done_level, stopped, open_, n, kept, odds, row):
    """Keep of the stopped keys what the mass that is surely kept allows; the others are read after all.

    Early keys come first: they stopped with the smallest share of the budget.
    """
    spent = 0.0
    for i in range(stopped):
        term = (above[done_level[i], g, q, done[i]] + EXP_TINY) * (1.0 + EXP_SLACK)
        if spent + term <= odds * kept:
            spent += term
        else:
            open_[n] = done[i]
            n += 1
            kept += below[g, q, done[i]]
            row[FALLBACK] += 1
    return spent, kept, stopped, n


@njit(cache=True, nogil=True, error_model="numpy")
def _drop_known(up, power, below, top, open_, n, spent, kept, odds, use, bins, hist):
    """Second round: of the keys whose K is known, drop the lowest as long as the inequality holds; the rest need V."""
    # Dropping a key also takes it from what is kept, hence the division.
    budget = max(odds * kept - spent, 0.0) / (1.0 + odds) * (1.0 - 2.0 * EXP_SLACK)
    cut, _ = _lowest(up, power, top, open_, n, 0.0, budget, bins, hist)
    for share in range(2):
        for i in range(n):
            j = open_[i]
            if (bins[i] < cut) if share == 0 else (bins[i] >= cut):
                term = (power[j] + EXP_TINY) * (1.0 + EXP_SLACK)
                rest = kept - below[j]
                if bins[i] <= cut and spent + term <= odds * rest:
                    spent, kept = spent + term, rest
                else:
                    use[VALUE, j] = 1
    return spent, kept


@njit(cache=True, nogil=True, error_model="numpy")
def _output_error(use, a, b, first, last, mass, values, value_norm, output, row):
    """True ||o - o_hat|| in float64 from exact masses, and what the certified mass allows."""
    width = values.shape[1]
    kept, total, largest = np.zeros(width), 0.0, 0.0
    for j in range(first, last):
        if j >= a and j < b:
            largest = max(largest, value_norm[j])
            if not use[VALUE, j]:
                continue
        p = np.float64(mass[j])
        total += p
        for v in range(width):
            kept[v] += p * values[j, v]
    square, norm = 0.0, 0.0
    for v in range(width):
        kept[v] /= total
        square += (output[v] - kept[v]) ** 2
        norm += kept[v] ** 2
    row[ERROR] = np.sqrt(square)
    row[ERROR_BOUND] = row[CERTIFIED] * (largest + np.sqrt(norm))
