"""The ledger of a certificate: what was read of every key of one query, and what that costs.

Its loops go query by query and head by head; the ledger of a head is `use`, one column a key, and that of the group
is the union of its heads'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.elimination.attention import ColdRange
from ghostkv.files.compiled import njit

# Rows of a ledger: levels of the record read, with K stored as the record or in float16 beside it; whether K was
# read in full; whether V was read.
DEPTH_NESTED, DEPTH_ADDITIVE, FULL_NESTED, FULL_ADDITIVE, VALUE = range(5)
_ROWS = 5


class KeyBounds(NamedTuple):
    """Bounds of one head's and query's scores once each level is read, float32 [levels + 1, keys]; the last is K in full.

    `exact` [keys] is the least score that the K of an exact key allows.
    """

    lower: np.ndarray
    upper: np.ndarray
    exact: np.ndarray


class Costs(NamedTuple):
    """Bytes of the first so many levels of a record (float64 [levels + 1]), and of a K stored nested, a K and a V.

    `escaped` (bool [keys], or empty for none) marks keys that a nested record does not bound: their K is stored in float16 too.
    """

    prefix: np.ndarray
    nested_key: float
    key: float
    value: float
    escaped: np.ndarray

    @classmethod
    def of(
        cls,
        levels: Sequence[float],
        nested_key: float,
        head_dim: int,
        value_dim: int,
        escaped: np.ndarray | None = None,
    ) -> Costs:
        """From the bytes of each level that the cascade reads, and of a K that is the record and its last planes.

        A capture without values (`value_dim` 0) counts them as wide as keys.
        """
        prefix = np.cumsum([0.0, *levels])
        widths = head_dim, value_dim or head_dim
        escaped = np.zeros(0, bool) if escaped is None else escaped
        return cls(prefix, float(nested_key), *(float(ELEMENT_BYTES * width) for width in widths), escaped)

    @property
    def pair(self) -> float:
        """Bytes of a K and V in float16."""
        return self.key + self.value


class Charge(NamedTuple):
    """What a ledger comes to: K and V read of cold keys, and bytes of all that was read in either storage."""

    survivors: int
    values: int
    nested: float
    additive: float


class Outcome(NamedTuple):
    """What a certificate did to each query; arrays of float64 [group, queries] unless said."""

    kept: np.ndarray  # bool [group, queries, keys]; keys that take part in the output
    # uint8 [group, queries, keys]; of a key that the dropped-mass certificate leaves out, how many levels had been read
    # when it was (the last is K in full); 0 of all others
    levels: np.ndarray
    # Share of the cold keys that were never read: bounds on their records ruled them out.
    elimination: np.ndarray
    # Share of the cold keys that take no part in the output: the eliminated ones, and those that their K in full
    # ruled out, so that their V was not read.
    values_unread: np.ndarray
    # Bytes ratio per head, with K stored as the record itself or in float16 beside it.
    bytes_nested: np.ndarray
    bytes_additive: np.ndarray
    # [queries]; GQA-true bytes ratio: levels, K and V once for the whole group.
    group_nested: np.ndarray
    group_additive: np.ndarray
    # Eliminated keys that exact scores put into the top-k, or 1 where the dropped mass exceeds the target.
    violated: np.ndarray
    # True dropped mass, and the bound on it.
    dropped: np.ndarray
    certified: np.ndarray
    share: np.ndarray  # part of the output that tail compensation gives to the mean of V
    # [group, queries, value_dim]; output over the keys that take part, before compensation, as a reader of nested records has
    # it: scores of cold keys are the middles of their last bounds
    read: np.ndarray
    inexact: np.ndarray  # how far that is at most from the output over the same keys with exact scores
    # True ``||o - o_hat||`` with compensation, and the bound on it; 0 where values were not captured.
    error: np.ndarray
    error_bound: np.ndarray
    fallback: np.ndarray  # keys that stopped early and had to be read after all

    @classmethod
    def empty(cls, shape: tuple[int, int, int], value_dim: int = 0) -> Outcome:
        """Of [group, queries, keys], to be filled."""
        shapes = dict.fromkeys(("kept", "levels"), shape)
        shapes |= dict.fromkeys(("group_nested", "group_additive"), shape[1:2])
        shapes["read"] = (*shape[:2], value_dim)
        kinds = {"kept": bool, "levels": np.uint8}
        return cls(*(np.zeros(shapes.get(name, shape[:2]), kinds.get(name, float)) for name in cls._fields))

    def light(self) -> Outcome:
        """Without what was decided of each key, which is as large as all scores: `kept` and `levels` have no keys."""
        return self._replace(kept=self.kept[..., :0].copy(), levels=self.levels[..., :0].copy())

    @classmethod
    def joined(cls, blocks: Sequence[Outcome]) -> Outcome:
        """Consecutive queries, one block after the other; their outcomes are `light` or have the same keys."""
        by_group = ("group_nested", "group_additive")
        return cls(
            *(
                np.concatenate([getattr(block, name) for block in blocks], axis=int(name not in by_group))
                for name in cls._fields
            )
        )


@njit(cache=True, nogil=True, error_model="numpy")
def empty_ledger(keys):
    return np.zeros((_ROWS, keys), np.uint8)


@njit(cache=True, nogil=True, error_model="numpy")
def bounds_of(lower, upper, truth, head, query):
    """The `KeyBounds` of one head and query; see `ghostkv.elimination.certificates.certify_topk`."""
    return KeyBounds(lower[:, head, query], upper[:, head, query], truth.low[head, query])


@njit(cache=True, nogil=True, error_model="numpy")
def span_of(visible, query):
    """The `ColdRange` of one query; its cold keys may be none."""
    start = visible.start[query]
    return ColdRange(visible.first[query], visible.last[query], start, max(visible.stop[query], start))


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
def charge(use, span, costs):
    """Keys and bytes of a ledger; of a united one each level, K and V once, however many heads asked."""
    nested, additive = 0.0, 0.0
    values, survivors = 0, 0
    for key in range(span.start, span.stop):
        nested += costs.nested_key if use[FULL_NESTED, key] else costs.prefix[use[DEPTH_NESTED, key]]
        if use[FULL_NESTED, key] and costs.escaped.size and costs.escaped[key]:
            nested += costs.key
        additive += costs.prefix[use[DEPTH_ADDITIVE, key]] + costs.key * use[FULL_ADDITIVE, key]
        values += use[VALUE, key]
        survivors += use[FULL_NESTED, key]
    exact_keys = (span.last - span.first) - (span.stop - span.start)
    exact = exact_keys * (costs.key + costs.value)
    read_values = values * costs.value
    return Charge(survivors, values, nested + read_values + exact, additive + read_values + exact)


@njit(cache=True, nogil=True, error_model="numpy")
def mark_kept(use, span, kept):
    """Which keys take part in a head's output: exact ones, and cold ones whose V was read; bool [keys]."""
    kept[span.first : span.last] = True
    for key in range(span.start, span.stop):
        kept[key] = use[VALUE, key] > 0


@njit(cache=True, nogil=True, error_model="numpy")
def book(use, united, span, costs, head, query, outcome):
    """Enter a head's finished ledger, and add it to its group's."""
    spent = charge(use, span, costs)
    cold, full = span.stop - span.start, (span.last - span.first) * (costs.key + costs.value)
    outcome.elimination[head, query] = (cold - spent.survivors) / max(cold, 1)
    outcome.values_unread[head, query] = (cold - spent.values) / max(cold, 1)
    outcome.bytes_nested[head, query], outcome.bytes_additive[head, query] = (
        spent.nested / full,
        spent.additive / full,
    )
    mark_kept(use, span, outcome.kept[head, query])
    unite(use, united, span)


@njit(cache=True, nogil=True, error_model="numpy")
def book_group(united, span, costs, query, outcome):
    spent, full = charge(united, span, costs), (span.last - span.first) * (costs.key + costs.value)
    outcome.group_nested[query], outcome.group_additive[query] = spent.nested / full, spent.additive / full
