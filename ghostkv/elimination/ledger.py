"""The ledger of a certificate: what was read of every key of one query, and what that costs.

Its loops go query by query and head by head; the ledger of a head is `use`, one column a key, and that of the group
is the union of its heads'.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

# Rows of a ledger: levels of the record read, with K stored as the record or in float16 beside it; whether K was
# read in full; whether V was read.
DEPTH_NESTED, DEPTH_ADDITIVE, FULL_NESTED, FULL_ADDITIVE, VALUE = range(5)
_ROWS = 5


class KeyBounds(NamedTuple):
    """Bounds of scores once each level is read, float32 [levels + 1, group, queries, keys]; the last is K in full.

    `exact` [group, queries, keys] is the least score that the K of an exact key allows. Of one head and query:
    [levels + 1, keys] and [keys].
    """

    lower: np.ndarray
    upper: np.ndarray
    exact: np.ndarray


class Span(NamedTuple):
    """First visible key, first cold, end of the cold ones, end of the visible; int64 [queries], or of one query."""

    first: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    last: np.ndarray


class Prices(NamedTuple):
    """Bytes of the first so many levels of a record (float64 [levels + 1]), and of a K stored nested, a K and a V."""

    prefix: np.ndarray
    nested_key: float
    key: float
    value: float


class Charge(NamedTuple):
    """What a ledger comes to: K and V read of cold keys, and bytes of all that was read in either storage."""

    survivors: int
    values: int
    nested: float
    additive: float


class CertificateTally(NamedTuple):
    """What a certificate counts; float64 [group, queries], of the group [queries], `kept` uint8 [group, queries, keys].

    Fields are those of `ghostkv.elimination.certificates.Outcome`, in keys and bytes.
    """

    kept: np.ndarray
    eliminated: np.ndarray
    values_unread: np.ndarray
    nested: np.ndarray
    additive: np.ndarray
    group_nested: np.ndarray
    group_additive: np.ndarray
    violated: np.ndarray
    dropped: np.ndarray
    certified: np.ndarray
    error: np.ndarray
    error_bound: np.ndarray
    fallback: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> CertificateTally:
        """Of [group, queries, keys]."""
        of_group = {"group_nested", "group_additive"}
        zeros = {name: np.zeros(shape[1:2] if name in of_group else shape[:2]) for name in cls._fields}
        return cls(**zeros | {"kept": np.zeros(shape, np.uint8)})


@njit(cache=True, nogil=True, error_model="numpy")
def empty_ledger(keys):
    return np.zeros((_ROWS, keys), np.uint8)


@njit(cache=True, nogil=True, error_model="numpy")
def bounds_of(bounds, head, query):
    """The `KeyBounds` of one head and query."""
    return KeyBounds(bounds.lower[:, head, query], bounds.upper[:, head, query], bounds.exact[head, query])


@njit(cache=True, nogil=True, error_model="numpy")
def span_of(spans, query):
    """The `Span` of one query; its cold keys may be none."""
    start = spans.start[query]
    return Span(spans.first[query], start, max(spans.stop[query], start), spans.last[query])


@njit(cache=True, nogil=True, error_model="numpy")
def forget(use, span):
    use[:, span.start : span.stop] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def unite(use, united, span):
    """Add a head's ledger to that of its group."""
    for row in range(_ROWS):
        own, whole = use[row, span.start : span.stop], united[row, span.start : span.stop]
        for i in range(own.size):
            whole[i] = own[i] if own[i] > whole[i] else whole[i]


@njit(cache=True, nogil=True, error_model="numpy")
def charge(use, span, prices):
    """Keys and bytes of a ledger; of a united one each level, K and V once, however many heads asked."""
    nested, additive = 0.0, 0.0
    values, survivors = 0, 0
    for key in range(span.start, span.stop):
        nested += prices.nested_key if use[FULL_NESTED, key] else prices.prefix[use[DEPTH_NESTED, key]]
        additive += prices.prefix[use[DEPTH_ADDITIVE, key]] + prices.key * use[FULL_ADDITIVE, key]
        values += use[VALUE, key]
        survivors += use[FULL_NESTED, key]
    exact_keys = (span.last - span.first) - (span.stop - span.start)
    exact = exact_keys * (prices.key + prices.value)
    read_values = values * prices.value
    return Charge(survivors, values, nested + read_values + exact, additive + read_values + exact)


@njit(cache=True, nogil=True, error_model="numpy")
def mark_kept(use, span, kept):
    """Which keys take part in a head's output: exact ones, and cold ones whose V was read; uint8 [keys]."""
    kept[span.first : span.last] = 1
    kept[span.start : span.stop] = use[VALUE, span.start : span.stop]


@njit(cache=True, nogil=True, error_model="numpy")
def book(use, united, span, prices, head, query, tally):
    """Enter a head's finished ledger, and add it to its group's."""
    spent = charge(use, span, prices)
    cold = span.stop - span.start
    tally.eliminated[head, query], tally.values_unread[head, query] = (
        cold - spent.survivors,
        cold - spent.values,
    )
    tally.nested[head, query], tally.additive[head, query] = spent.nested, spent.additive
    mark_kept(use, span, tally.kept[head, query])
    unite(use, united, span)


@njit(cache=True, nogil=True, error_model="numpy")
def book_group(united, span, prices, query, tally):
    spent = charge(united, span, prices)
    tally.group_nested[query], tally.group_additive[query] = spent.nested, spent.additive
