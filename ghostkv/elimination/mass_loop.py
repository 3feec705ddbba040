"""The loop of the dropped-mass certificate: one query head after the other.

Exact masses are read after every decision is made, to verify it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ghostkv.elimination.ledger import (
    DEPTH_ADDITIVE,
    DEPTH_NESTED,
    FULL_ADDITIVE,
    FULL_NESTED,
    VALUE,
    Costs,
    book,
    book_group,
    bounds_of,
    empty_ledger,
    forget,
    span_of,
)
from ghostkv.elimination.powers import EXP_SLACK, EXP_TINY, powers_of
from ghostkv.files.compiled import njit

# Bounds on a logarithmic scale below the budget, 16 bins a unit; what lies lower shares the first bin.
_BINS, _BINS_PER_UNIT = 768, 16.0


class MassRule(NamedTuple):
    """The mass that may be dropped, shares of it for keys stopped at or before each level, and what reads cost."""

    delta: float
    shares: np.ndarray
    costs: Costs


class _OpenKeys(NamedTuple):
    """Scratch: open keys and the bin of each, bins' sums; stopped keys and the level that each stopped at."""

    open_: np.ndarray
    bins: np.ndarray
    sums: np.ndarray
    stopped: np.ndarray
    stopped_at: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def mass_loop(lower, upper, powers, truth, rule, outcome):
    """Eliminate as much as `delta` allows; see `ghostkv.elimination.certificates.certify_mass`."""
    group, queries, count = truth.mass.shape
    odds = rule.delta / (1.0 - rule.delta)
    keys = _OpenKeys(
        np.empty(count, np.int64), np.empty(count, np.int64), np.empty(_BINS), np.empty(count, np.int64),
        np.empty(count, np.int64),
    )  # fmt: skip
    use, united = empty_ledger(count), empty_ledger(count)
    for query in range(queries):
        span = span_of(truth.visible, query)
        forget(united, span)
        for head in range(group):
            forget(use, span)
            bounds, own = bounds_of(lower, upper, truth, head, query), powers_of(powers, head, query)
            open_, stopped = _stop_early(bounds, own, span, rule, keys, use)
            spent, kept, open_, fallback = _prove_stopped(own, keys, stopped, open_, odds)
            for i in range(open_):
                use[FULL_NESTED, keys.open_[i]] = 1
                use[FULL_ADDITIVE, keys.open_[i]] = 1
            spent, kept = _drop_known(bounds, own, keys, open_, spent, kept, odds, use)
            outcome.fallback[head, query] = fallback
            outcome.certified[head, query] = spent / (spent + kept) if spent > 0.0 else 0.0
            levels = outcome.levels[head, query]
            levels[span.start : span.stop] = bounds.upper.shape[0]
            for i in range(stopped):
                levels[keys.stopped[i]] = keys.stopped_at[i] + 1
            dropped, tail = 0.0, 0.0
            for key in range(span.start, span.stop):
                # A key that stopped and was read after all is left with K in full, if at all.
                if use[FULL_NESTED, key]:
                    levels[key] = bounds.upper.shape[0]
                if use[VALUE, key]:
                    levels[key] = 0
                else:
                    dropped += truth.mass[head, query, key]
                    tail += own.middle[levels[key] - 1, key]
            outcome.dropped[head, query] = dropped
            tail *= np.exp(own.top - truth.lse[head, query])
            outcome.share[head, query] = tail / (1.0 - dropped + tail)
            outcome.violated[head, query] = not (dropped <= rule.delta)
            if truth.values.shape[1]:
                _read_output(use, span, truth, head, query, outcome.read[head, query])
            book(use, united, span, rule.costs, head, query, outcome)
        book_group(united, span, rule.costs, query, outcome)


@njit(cache=True, nogil=True, error_model="numpy")
def _stop_early(bounds, powers, span, rule, keys, use):
    """First round: read levels, and stop reading keys whose bounds share what the budget may be.

    Returns how many keys stay open, and how many were stopped.
    """
    open_, stopped = span.stop - span.start, 0
    for i in range(open_):
        keys.open_[i] = span.start + i
    spent, guess_stopped = 0.0, 0.0
    for level in range(bounds.upper.shape[0] - 1):
        # A guess of the budget from estimates: it only says who stops early, the proof comes at the end.
        guess = powers.kept + guess_stopped
        lower, upper = bounds.lower[level], bounds.upper[level]
        above, middle = powers.above[level], powers.middle[level]
        for i in range(open_):
            key = keys.open_[i]
            guess += middle[key]
            use[DEPTH_NESTED, key] = level + 1
            if not use[FULL_ADDITIVE, key]:
                use[DEPTH_ADDITIVE, key] = level + 1
        budget = rule.shares[level] * rule.delta * guess
        limit = np.log(max(budget, 1e-300))
        cut, spent = _lowest(upper, above, powers.top, keys, open_, spent, budget)
        left = 0
        for i in range(open_):
            key, its_bin = keys.open_[i], keys.bins[i]
            term = above[key]
            if its_bin < cut or (its_bin == cut and spent + term <= budget):
                spent += term if its_bin == cut else 0.0
                keys.stopped[stopped], keys.stopped_at[stopped] = key, level
                stopped += 1
                guess_stopped += middle[key]
            else:
                keys.open_[left] = key
                left += 1
                # A key whose mass alone breaks the budget will stay: beside a float16 K, read that at once.
                if lower[key] - powers.top > limit:
                    use[FULL_ADDITIVE, key] = 1
        open_ = left
    return open_, stopped


@njit(cache=True, nogil=True, error_model="numpy")
def _lowest(upper, above, top, keys, open_, spent, budget):
    """Fill a budget with the lowest upper bounds first.

    Returns the bin that no longer fits as a whole and what the bins below it add up to; `keys.bins` names every open
    key's bin, those that can never fit one beyond the last.
    """
    keys.sums[:] = 0.0
    limit = np.float32(np.log(max(budget, 1e-300)))
    for i in range(open_):
        key = keys.open_[i]
        x = upper[key] - top
        if x < limit:
            depth = (limit - x) * np.float32(_BINS_PER_UNIT)
            keys.bins[i] = _BINS - 1 - (np.int64(depth) if depth < _BINS - 1 else _BINS - 1)
            keys.sums[keys.bins[i]] += above[key]
        else:
            keys.bins[i] = _BINS
    cut = 0
    while cut < _BINS and spent + keys.sums[cut] <= budget:
        spent += keys.sums[cut]
        cut += 1
    return cut, spent


@njit(cache=True, nogil=True, error_model="numpy")
def _prove_stopped(powers, keys, stopped, open_, odds):
    """Keep of the stopped keys what the mass that is surely kept allows; the others are read after all.

    Early keys come first: they stopped with the smallest share of the budget. Returns what is spent and surely kept,
    how many keys are open now, and how many of them had been stopped.
    """
    below, kept = powers.below, powers.kept
    for i in range(open_):
        kept += below[keys.open_[i]]
    spent, fallback = 0.0, 0
    for i in range(stopped):
        key = keys.stopped[i]
        term = (powers.above[keys.stopped_at[i], key] + EXP_TINY) * (1.0 + EXP_SLACK)
        if spent + term <= odds * kept:
            spent += term
        else:
            keys.open_[open_] = key
            open_ += 1
            kept += below[key]
            fallback += 1
    return spent, kept, open_, fallback


@njit(cache=True, nogil=True, error_model="numpy")
def _drop_known(bounds, powers, keys, open_, spent, kept, odds, use):
    """Second round: of the keys whose K is known, drop the lowest as long as the inequality holds; the rest need V."""
    level, below = bounds.upper.shape[0] - 1, powers.below
    upper, above = bounds.upper[level], powers.above[level]
    # Dropping a key also takes it from what is kept, hence the division.
    budget = max(odds * kept - spent, 0.0) / (1.0 + odds) * (1.0 - 2.0 * EXP_SLACK)
    cut, _ = _lowest(upper, above, powers.top, keys, open_, 0.0, budget)
    # Bins that fit as a whole go first, then what still fits of the one that does not.
    for share in range(2):
        for i in range(open_):
            key, its_bin = keys.open_[i], keys.bins[i]
            if (its_bin < cut) if share == 0 else (its_bin >= cut):
                term = (above[key] + EXP_TINY) * (1.0 + EXP_SLACK)
                rest = kept - below[key]
                if its_bin <= cut and spent + term <= odds * rest:
                    spent, kept = spent + term, rest
                else:
                    use[VALUE, key] = 1
    return spent, kept


@njit(cache=True, nogil=True, error_model="numpy")
def _read_output(use, span, truth, head, query, out):
    """Output over the keys that take part, in float64 from truth masses."""
    values, total = truth.values, 0.0
    for key in range(span.first, span.last):
        if key >= span.start and key < span.stop and not use[VALUE, key]:
            continue
        mass = truth.mass[head, query, key]
        total += mass
        for v in range(out.size):
            out[v] += mass * values[key, v]
    for v in range(out.size):
        out[v] /= total
