"""The loop of the dropped-mass certificate: heads that decide together, one query after the other.

Heads that decide together leave out the same keys: those that every one of them can afford, within a budget of its own. Exact
masses are read after every decision is made, to verify it.
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
    empty_ledger,
    forget,
    span_of,
)
from ghostkv.elimination.powers import EXP_SLACK, EXP_TINY, Powers
from ghostkv.elimination.read_outputs import read_stored
from ghostkv.files.compiled import njit

# Shares of a budget on a logarithmic scale, 16 bins a unit; what lies lower shares the first bin.
_BINS, _BINS_PER_UNIT = 768, 16.0


class MassRule(NamedTuple):
    """The mass that may be dropped, shares of it for keys stopped at or before each level, and what reads cost."""

    delta: float
    shares: np.ndarray
    costs: Costs


class _OpenKeys(NamedTuple):
    """Scratch: open keys and the bin of each; bins' sums; stopped keys and the level that each stopped at."""

    open_: np.ndarray
    bins: np.ndarray
    sums: np.ndarray  # [heads, bins + 1]
    stopped: np.ndarray
    stopped_at: np.ndarray


class _Budgets(NamedTuple):
    """Of each head that decides: what it may spend, what it has spent, and what it surely keeps; float64 [heads]."""

    most: np.ndarray
    spent: np.ndarray
    kept: np.ndarray
    terms: np.ndarray  # scratch


class _Heads(NamedTuple):
    """What is known of one query to heads ``first..last - 1``; arrays are of all, whose rows are known to lie in one piece."""

    lower: np.ndarray
    upper: np.ndarray
    powers: Powers
    first: int
    last: int
    query: int


@njit(cache=True, nogil=True, error_model="numpy")
def mass_loop(lower, upper, powers, truth, rule, together, outcome):
    """Eliminate as much as `delta` allows; see `ghostkv.elimination.certificates.certify_mass`."""
    group, queries, count = truth.mass.shape
    odds, deciding = rule.delta / (1.0 - rule.delta), group if together else 1
    open_keys, bins, stopped_keys, stopped_at = np.empty((4, count), np.int64)
    keys = _OpenKeys(open_keys, bins, np.empty((deciding, _BINS + 1)), stopped_keys, stopped_at)
    budgets = _Budgets(np.empty(deciding), np.empty(deciding), np.empty(deciding), np.empty(deciding))
    use, united = empty_ledger(count), empty_ledger(count)
    squares = np.zeros(count)
    for v in range(truth.values.shape[1]):
        squares += truth.values[:, v].astype(np.float64) ** 2
    for query in range(queries):
        span = span_of(truth.visible, query)
        forget(united, span)
        for first in range(0, group, deciding):
            heads = _Heads(lower, upper, powers, first, first + deciding, query)
            forget(use, span)
            open_, stopped = _stop_early(heads, span, rule, keys, budgets, use)
            open_, fallback = _prove_stopped(heads, keys, stopped, open_, odds, budgets)
            _drop_known(heads, keys, open_, odds, budgets, use)
            for head in range(first, first + deciding):
                _enter(
                    heads, head, keys, stopped, fallback, budgets, use, span, truth, rule, squares, outcome
                )
                book(use, united, span, rule.costs, head, query, outcome)
        book_group(united, span, rule.costs, query, outcome)


@njit(cache=True, nogil=True, error_model="numpy")
def _enter(heads, head, keys, stopped, fallback, budgets, use, span, truth, rule, squares, outcome):
    """What became of one head: what it certified, and what exact masses say of it."""
    last, query = heads.upper.shape[0], heads.query
    spent, kept = budgets.spent[head - heads.first], budgets.kept[head - heads.first]
    outcome.fallback[head, query] = fallback
    outcome.certified[head, query] = spent / (spent + kept) if spent > 0.0 else 0.0
    levels = outcome.levels[head, query]
    levels[span.start : span.stop] = last
    for i in range(stopped):
        levels[keys.stopped[i]] = keys.stopped_at[i] + 1
    dropped, tail = 0.0, 0.0
    for key in range(span.start, span.stop):
        # A key that stopped and was read after all is left with K in full, if at all.
        if use[FULL_NESTED, key]:
            levels[key] = last
        if use[VALUE, key]:
            levels[key] = 0
        else:
            dropped += truth.mass[head, query, key]
            tail += heads.powers.middle[levels[key] - 1, head, query, key]
    outcome.dropped[head, query] = dropped
    kept = read_stored(heads, head, use, span, truth, squares, outcome)
    tail *= np.exp(heads.powers.top[head, query] - truth.lse[head, query])
    outcome.share[head, query] = tail / (kept + tail)
    outcome.violated[head, query] = not (dropped <= rule.delta)


@njit(cache=True, nogil=True, error_model="numpy")
def _stop_early(heads, span, rule, keys, budgets, use):
    """First round: read levels, and stop reading keys whose bounds share what the budgets may be.

    Returns how many keys stay open, and how many were stopped.
    """
    open_, stopped, count, query = span.stop - span.start, 0, heads.last - heads.first, heads.query
    for i in range(open_):
        keys.open_[i] = span.start + i
    budgets.spent[:] = 0.0
    # A guess of what is kept, from estimates: it only says who stops early, the proof comes at the end.
    guess_stopped = np.zeros(count)
    for level in range(heads.upper.shape[0] - 1):
        for i in range(open_):
            key = keys.open_[i]
            use[DEPTH_NESTED, key] = level + 1
            if not use[FULL_ADDITIVE, key]:
                use[DEPTH_ADDITIVE, key] = level + 1
        for own in range(count):
            guess = heads.powers.kept[heads.first + own, query] + guess_stopped[own]
            middle = heads.powers.middle[level, heads.first + own, query]
            for i in range(open_):
                guess += middle[keys.open_[i]]
            budgets.most[own] = rule.shares[level] * rule.delta * guess
        cut, fresh = _lowest(heads, level, keys, open_, budgets), stopped
        left = 0
        for i in range(open_):
            key, its_bin = keys.open_[i], keys.bins[i]
            if its_bin < cut or (its_bin == cut and _spend(heads, level, key, budgets)):
                keys.stopped[stopped], keys.stopped_at[stopped] = key, level
                stopped += 1
            else:
                keys.open_[left] = key
                left += 1
        open_ = left
        for own in range(count):
            middle = heads.powers.middle[level, heads.first + own, query]
            for i in range(fresh, stopped):
                guess_stopped[own] += middle[keys.stopped[i]]
            # A key whose mass alone breaks a budget will stay: beside a float16 K, read that at once.
            lower = heads.lower[level, heads.first + own, query]
            limit, top = np.log(max(budgets.most[own], 1e-300)), heads.powers.top[heads.first + own, query]
            for i in range(open_):
                if lower[keys.open_[i]] - top > limit:
                    use[FULL_ADDITIVE, keys.open_[i]] = 1
    return open_, stopped


@njit(cache=True, nogil=True, error_model="numpy")
def _spend(heads, level, key, budgets):
    """Whether every head can afford a key; it is then spent."""
    above = heads.powers.above
    for own in range(heads.last - heads.first):
        if not (budgets.spent[own] + above[level, heads.first + own, heads.query, key] <= budgets.most[own]):
            return False
    for own in range(heads.last - heads.first):
        budgets.spent[own] += above[level, heads.first + own, heads.query, key]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _lowest(heads, level, keys, open_, budgets):
    """Fill budgets, lowest first of the largest share that a key takes of any head's.

    Returns the bin that no longer fits as a whole; what lies below is spent. `keys.bins` names every open key's bin, those
    that can never fit one beyond the last.
    """
    count, query, scale = heads.last - heads.first, heads.query, np.float32(_BINS_PER_UNIT)
    keys.bins[:open_] = -1
    for own in range(count):
        upper, top = heads.upper[level, heads.first + own, query], heads.powers.top[heads.first + own, query]
        limit = np.float32(np.log(max(budgets.most[own], 1e-300)))
        for i in range(open_):
            x, its_bin = upper[keys.open_[i]] - top, _BINS
            if x < limit:
                depth = (limit - x) * scale
                its_bin = _BINS - 1 - (np.int64(depth) if depth < _BINS - 1 else _BINS - 1)
            keys.bins[i] = max(keys.bins[i], its_bin)
    keys.sums[:] = 0.0
    for own in range(count):
        above = heads.powers.above[level, heads.first + own, query]
        for i in range(open_):
            keys.sums[own, keys.bins[i]] += above[keys.open_[i]]
    for cut in range(_BINS):
        # Head by head, as an array made for every bin would take more time than all keys.
        for own in range(count):
            if not (budgets.spent[own] + keys.sums[own, cut] <= budgets.most[own]):
                return cut
        for own in range(count):
            budgets.spent[own] += keys.sums[own, cut]
    return _BINS


@njit(cache=True, nogil=True, error_model="numpy")
def _prove_stopped(heads, keys, stopped, open_, odds, budgets):
    """Keep of the stopped keys what the mass that is surely kept allows; the others are read after all.

    Early keys come first: they stopped with the smallest share of the budget. Returns how many keys are open now, and how
    many of them had been stopped.
    """
    count, query, fallback = heads.last - heads.first, heads.query, 0
    for own in range(count):
        below, budgets.spent[own] = heads.powers.below[heads.first + own, query], 0.0
        kept = heads.powers.kept[heads.first + own, query]
        for i in range(open_):
            kept += below[keys.open_[i]]
        budgets.kept[own] = kept
    for i in range(stopped):
        key, fits = keys.stopped[i], True
        for own in range(count):
            term = heads.powers.above[keys.stopped_at[i], heads.first + own, query, key]
            budgets.terms[own] = (term + EXP_TINY) * (1.0 + EXP_SLACK)
            fits = fits and budgets.spent[own] + budgets.terms[own] <= odds * budgets.kept[own]
        if fits:
            for own in range(count):
                budgets.spent[own] += budgets.terms[own]
        else:
            keys.open_[open_] = key
            open_ += 1
            fallback += 1
            for own in range(count):
                budgets.kept[own] += heads.powers.below[heads.first + own, query, key]
    return open_, fallback


@njit(cache=True, nogil=True, error_model="numpy")
def _drop_known(heads, keys, open_, odds, budgets, use):
    """Second round: of the keys whose K is known, drop the lowest as long as the inequality holds; the rest need V."""
    level, count = heads.upper.shape[0] - 1, heads.last - heads.first
    proved = budgets.spent.copy()
    for own in range(count):
        room = max(odds * budgets.kept[own] - proved[own], 0.0)
        # Dropping a key also takes it from what is kept, hence the division.
        budgets.most[own] = room / (1.0 + odds) * (1.0 - 2.0 * EXP_SLACK)
        budgets.spent[own] = 0.0
    cut = _lowest(heads, level, keys, open_, budgets)
    budgets.spent[:] = proved
    for i in range(open_):
        use[FULL_NESTED, keys.open_[i]] = 1
        use[FULL_ADDITIVE, keys.open_[i]] = 1
    # Bins that fit as a whole go first, then what still fits of the one that does not.
    for i in range(open_):
        if keys.bins[i] < cut and not _drop(heads, level, keys.open_[i], odds, budgets):
            use[VALUE, keys.open_[i]] = 1
    for i in range(open_):
        its_bin = keys.bins[i]
        if its_bin > cut or (its_bin == cut and not _drop(heads, level, keys.open_[i], odds, budgets)):
            use[VALUE, keys.open_[i]] = 1


@njit(cache=True, nogil=True, error_model="numpy")
def _drop(heads, level, key, odds, budgets):
    """Whether every head's inequality still holds without a key; it is then spent, and kept no more."""
    for own in range(heads.last - heads.first):
        head = heads.first + own
        term = (heads.powers.above[level, head, heads.query, key] + EXP_TINY) * (1.0 + EXP_SLACK)
        rest = budgets.kept[own] - heads.powers.below[head, heads.query, key]
        if not (budgets.spent[own] + term <= odds * rest):
            return False
        budgets.terms[own] = term
    for own in range(heads.last - heads.first):
        budgets.spent[own] += budgets.terms[own]
        budgets.kept[own] -= heads.powers.below[heads.first + own, heads.query, key]
    return True
