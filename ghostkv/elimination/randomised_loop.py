"""The loop of the randomised certificate: heads that decide together, one query after the other."""

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
    empty_ledger,
    forget,
    span_of,
)
from ghostkv.elimination.read_outputs import read_output
from ghostkv.files.compiled import njit

# Thresholds that a proof may name: so many, at steps of an eighth around the score that they are counted from.
GRID, _GRID_STEP = 2049, 0.125
# Tilts of the exponential moment (l of the docs) that a proof may name.
TILTS = 0.1 * 2.0 ** np.arange(9.0)
# Charges of keys are tabled by the distance of their score from the threshold: bins of 1/16, from 8 below to 8 above.
_BINS, _PER_UNIT, _LEAST = 256, 16.0, -8.0
_DEEPEST, _STEP_BACK = 40.0, 0.03  # cuts of the keys' shares that are tried, below the whole mass
_ROUNDING, _LARGEST = 1.0 + 2.0**-30, 700.0


class ChanceRule(NamedTuple):
    """Mass that may be dropped, probability that more is, ``L`` of the docs, and what reads cost."""

    delta: float
    failure: float
    exponent: float
    costs: Costs


class _Search(NamedTuple):
    """Scratch of one query and the heads that decide together; arrays are of those heads unless said."""

    charges: np.ndarray  # float64 [heads, tilts, bins]; psi in units of exp(tau)
    slack: np.ndarray  # float64 [heads, tilts]; r
    width: np.ndarray  # float64 [heads]; what bounds of a score may be apart for it to be charged in one bin
    # float64 [heads, keys]; exponentials of estimates over ``E exp(xi)``, with what was clipped and rounded and without
    above: np.ndarray
    middle: np.ndarray
    level: np.ndarray  # float64 [heads]; logarithm of the whole mass, as estimated
    spent: np.ndarray  # float64 [heads]; bound of what is eliminated, and of what is surely kept
    surely: np.ndarray
    shares: np.ndarray  # float64 [keys]; the largest share that a key takes of any head's mass: a logarithm
    counts: np.ndarray  # int64 [bins]


@njit(cache=True, nogil=True, error_model="numpy")
def chance_loop(dithers, origin, kept, truth, rule, together, outcome):
    """Eliminate as much as `delta` allows; see `ghostkv.elimination.randomised.certify_by_chance`."""
    group, queries, count = truth.mass.shape
    heads = group if together else 1
    charges, slack, shares = (
        np.empty((heads, TILTS.size, _BINS)),
        np.empty((heads, TILTS.size)),
        np.empty(count),
    )
    above, middle = np.empty((2, heads, count))
    level, spent, surely, width = np.empty((4, heads))
    search = _Search(
        charges, slack, width, above, middle, level, spent, surely, shares, np.empty(_BINS, np.int64)
    )
    use, united = empty_ledger(count), empty_ledger(count)
    for query in range(queries):
        span = span_of(truth.visible, query)
        forget(united, span)
        for first in range(0, group, heads):
            shares[:] = -np.inf
            for own in range(heads):
                _tabulate(dithers, first + own, query, span, rule.failure, search, own)
                _weigh(dithers, origin, kept, first + own, query, span, search, own)
            cut = _choose(dithers, origin, kept, first, query, span, search, rule)
            forget(use, span)
            for key in range(span.start, span.stop):
                use[DEPTH_NESTED, key] = use[DEPTH_ADDITIVE, key] = 1
                if not (shares[key] < cut):
                    use[FULL_NESTED, key] = use[FULL_ADDITIVE, key] = use[VALUE, key] = 1
            for own in range(heads):
                _enter(dithers, first + own, query, span, use, spent[own], surely[own], truth, rule, outcome)
                book(use, united, span, rule.costs, first + own, query, outcome)
        book_group(united, span, rule.costs, query, outcome)


@njit(cache=True, nogil=True, error_model="numpy")
def _tabulate(dithers, head, query, span, failure, search, own):
    """Charges of keys by distance from the threshold, and the share of their mass that eliminated keys are charged.

    A bin takes the least distance for the chance to be eliminated, and the largest for what that costs.
    """
    charges, slack = search.charges[own], search.slack[own]
    spread, variance = dithers.law.spread[head, query], max(dithers.law.deviation[head, query] ** 2, 1e-300)
    low, high, cold = dithers.low[head, query], dithers.high[head, query], max(span.stop - span.start, 1)
    apart = 0.0
    for key in range(span.start, span.stop):
        apart += min(high[key] - low[key], 1.0)
    search.width[own] = 1.5 * apart / cold
    farthest = np.sqrt(2.0 * variance * np.log(2.0 * cold / failure))
    slack[:] = 0.0
    for b in range(_BINS):
        near, far = _LEAST + b / _PER_UNIT, _LEAST + (b + 1) / _PER_UNIT
        if near > farthest:
            # No estimate is so far below its score.
            charges[:, b] = 0.0
            continue
        distance = max(near, 0.0) ** 2 / variance
        once = min(spread * 0.5, spread * np.exp(-0.25 * distance), np.exp(-0.5 * distance))
        square = min(once, spread * spread)
        for t in range(TILTS.size):
            moment = _moment(TILTS[t] * np.exp(far), once, square)
            if near == 0.0:
                # Below the threshold the ratio of moment and score rises with the score: this bin stands for all.
                slack[t] = moment / TILTS[t]
            elif near > 0.0:
                slack[t] = max(slack[t], np.log1p(moment) / (TILTS[t] * np.exp(near)))
            if b == _BINS - 1:
                charges[t, b] = slack[t] = np.inf
            else:
                charges[t, b] = (
                    np.log1p(_moment(TILTS[t] * np.exp(far + search.width[own]), once, square)) / TILTS[t]
                )


@njit(cache=True, nogil=True, error_model="numpy")
def _moment(x, once, square):
    """``E exp(x P) - 1`` at most, for ``0 <= P <= 1`` with ``E P <= once`` and ``E P^2 <= square``."""
    return x * once + (np.expm1(x) - x) * square


@njit(cache=True, nogil=True, error_model="numpy")
def _weigh(dithers, origin, kept, head, query, span, search, own):
    """Exponentials of one head's estimates, and what share of the head's mass each key would take."""
    base = origin[head, query] + dithers.law.log_mean[head, query]
    upper, estimate = dithers.upper[head, query], dithers.estimate[head, query]
    total = kept[head, query]
    for key in range(span.start, span.stop):
        search.above[own, key] = np.exp(upper[key] - base)
        search.middle[own, key] = np.exp(min(estimate[key] - base, _LARGEST))
        total += search.middle[own, key]
    search.level[own] = origin[head, query] + np.log(total)
    for key in range(span.start, span.stop):
        share = upper[key] - search.level[own]
        # What is not a number is never eliminated.
        search.shares[key] = max(search.shares[key], share if share == share else np.inf)


@njit(cache=True, nogil=True, error_model="numpy")
def _choose(dithers, origin, kept, first, query, span, search, rule):
    """The largest cut of shares that every head can prove.

    Estimates stand for scores in the search. The proof takes scores of keys that are read, and a lower cut where it fails.
    """
    cut, high = -_DEEPEST, 0.0
    for _ in range(9):
        middle = 0.5 * (cut + high)
        if _fits(dithers, origin, kept, first, query, span, search, middle, rule, False):
            cut = middle
        else:
            high = middle
    while cut > -_DEEPEST:
        if _fits(dithers, origin, kept, first, query, span, search, cut, rule, True):
            return cut
        cut -= _STEP_BACK
    search.spent[:] = 0.0
    return -np.inf


@njit(cache=True, nogil=True, error_model="numpy")
def _fits(dithers, origin, kept, first, query, span, search, cut, rule, proof):
    """Whether the keys whose share is below a cut are within every head's budget."""
    odds, counts = rule.delta / (1.0 - rule.delta), search.counts
    for own in range(search.level.size):
        head = first + own
        base = origin[head, query]
        # The next threshold of the grid: no eliminated key's estimate is beyond it.
        steps = np.ceil((search.level[own] + cut - base) / _GRID_STEP)
        if not (abs(steps) <= GRID // 2):
            return False
        tau, dropped, stays = base + steps * _GRID_STEP, 0.0, kept[head, query]
        estimate, low, high = (
            dithers.estimate[head, query],
            dithers.low[head, query],
            dithers.high[head, query],
        )
        counts[:] = 0
        for key in range(span.start, span.stop):
            if search.shares[key] < cut:
                dropped += search.above[own, key]
            elif proof:
                # What overflows would count as infinite mass that is kept, and all could go.
                stays += np.exp(min(low[key] - base, _LARGEST))
                least = max(low[key] - tau, _LEAST - 1.0)
                counts[_bin(least)] += 1
                # A score that may be further above than a bin takes is charged in more of them.
                while not (high[key] - tau - least <= search.width[own]) and least < -_LEAST:
                    least += 1.0 / _PER_UNIT
                    counts[_bin(least)] += 1
            else:
                stays += search.middle[own, key]
                counts[_bin(estimate[key] - tau)] += 1
        bound = _least_bound(dropped, np.exp(tau - base), search, own, rule.exponent)
        search.spent[own], search.surely[own] = bound * _ROUNDING, stays / _ROUNDING
        if not (search.spent[own] <= odds * search.surely[own]):
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _bin(distance):
    """The bin of a distance from the threshold; the first of what is not a number."""
    place = (distance - _LEAST) * _PER_UNIT
    return int(min(place, _BINS - 1.0)) if place > 0.0 else 0


@njit(cache=True, nogil=True, error_model="numpy")
def _least_bound(dropped, unit, search, own, exponent):
    """The least of the bounds that the tilts prove; infinite where none does."""
    least = np.inf
    for t in range(TILTS.size):
        if not (search.slack[own, t] < 1.0):
            continue
        charged = exponent / TILTS[t]
        for b in range(_BINS):
            if search.counts[b]:
                charged += search.counts[b] * search.charges[own, t, b]
        least = min(least, (dropped + unit * charged) / (1.0 - search.slack[own, t]))
    return least


@njit(cache=True, nogil=True, error_model="numpy")
def _enter(dithers, head, query, span, use, spent, surely, truth, rule, outcome):
    """What became of one head: what it certified, and what exact masses say of it."""
    dropped, tail, count = 0.0, 0.0, 0
    base = truth.lse[head, query] + dithers.law.log_mean[head, query]
    for key in range(span.start, span.stop):
        if not use[VALUE, key]:
            outcome.levels[head, query, key] = 1
            count += 1
            dropped += truth.mass[head, query, key]
            tail += np.exp(dithers.estimate[head, query, key] - base)
    outcome.certified[head, query] = spent / (spent + surely) if count else 0.0
    outcome.dropped[head, query] = dropped
    outcome.share[head, query] = tail / (1.0 - dropped + tail)
    outcome.violated[head, query] = not (dropped <= rule.delta)
    if truth.values.shape[1]:
        read_output(use, span, truth, head, query, outcome.read[head, query])
