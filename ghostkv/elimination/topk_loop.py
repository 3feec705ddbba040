"""The loop of the top-k certificate: one query head after the other.

Exact scores enter in two places only: as what a key's full K says once it has been read (through the last level of
the bounds), and, after every decision is made, to verify it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ghostkv.elimination.cascade import cascade, count_missed, read_values
from ghostkv.elimination.ledger import Costs, book, book_group, bounds_of, empty_ledger, forget, span_of
from ghostkv.files.compiled import njit


class TopkRule(NamedTuple):
    """How many keys are the top, how many are probed after each level (int64 [levels]), and what reads cost."""

    top_k: int
    probes: np.ndarray
    costs: Costs


@njit(cache=True, nogil=True, error_model="numpy")
def topk_loop(lower, upper, truth, rule, outcome):
    """Eliminate what is certainly in no exact top-k; see `ghostkv.elimination.certificates.certify_topk`."""
    group, queries, keys = truth.scores.shape
    open_, best = np.empty(keys, np.int64), np.empty(rule.top_k, np.float32)
    use, united = empty_ledger(keys), empty_ledger(keys)
    nothing = np.float32(-np.inf)
    for query in range(queries):
        span = span_of(truth.visible, query)
        forget(united, span)
        for head in range(group):
            forget(use, span)
            bounds = bounds_of(lower, upper, truth, head, query)
            # Without an index every cold key is open.
            cold = span.stop - span.start
            for i in range(cold):
                open_[i] = span.start + i
            count, _ = cascade(bounds, span, rule.probes, open_, 0, cold, nothing, best, use)
            read_values(bounds, span, open_, count, best, use)
            outcome.violated[head, query] = count_missed(use, span, truth, head, query)
            book(use, united, span, rule.costs, head, query, outcome)
        book_group(united, span, rule.costs, query, outcome)
