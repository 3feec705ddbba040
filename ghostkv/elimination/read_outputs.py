"""Outputs over the keys that a certificate keeps: from exact scores, and as a reader of nested records has them."""

from __future__ import annotations

import numpy as np

from ghostkv.elimination.compensation import WIDEST
from ghostkv.elimination.ledger import VALUE
from ghostkv.elimination.powers import EXP_SLACK, EXP_TINY
from ghostkv.files.compiled import njit


@njit(cache=True, nogil=True, error_model="numpy")
def read_stored(heads, head, use, span, truth, squares, outcome):
    """Output over the keys that take part, from K as it is stored, and how far exact scores may move it; their mass.

    `squares` [keys] are those of the norms of V. See docs/certificates.md, section 4.
    """
    values, query, last = truth.values, heads.query, heads.upper.shape[0] - 1
    lower, upper = heads.lower[last, head, query], heads.upper[last, head, query]
    middle, lse = heads.powers.middle[last, head, query], truth.lse[head, query]
    scale, out = np.exp(heads.powers.top[head, query] - lse), outcome.read[head, query]
    total, least, off, length, longest, clear = 0.0, 0.0, 0.0, 0.0, 0.0, True
    for key in range(span.first, span.last):
        grown = 0.0
        if key < span.start or key >= span.stop:
            mass = truth.mass[head, query, key]
        elif not use[VALUE, key]:
            continue
        else:
            margin = 0.5 * (np.float64(upper[key]) - np.float64(lower[key]))
            if margin < WIDEST:
                # No further above the largest lower bound than its own margin, so that float32 holds it.
                mass, grown = middle[key] * scale + EXP_TINY, np.expm1(margin + EXP_SLACK)
            else:
                centre = 0.5 * (np.float64(upper[key]) + np.float64(lower[key])) - lse
                mass, clear = np.exp(min(centre, 600.0)) if centre == centre else 0.0, False
        total += mass
        least += mass / (1.0 + grown)
        off += mass * grown * grown
        length += mass * squares[key]
        longest = max(longest, squares[key])
        for v in range(out.size):
            out[v] += mass * values[key, v]
    if out.size:
        square = 0.0
        for v in range(out.size):
            out[v] /= total
            square += out[v] ** 2
        # What cancellation may take of the spread is added.
        spread = max(length - total * square, 0.0) + 1e-12 * length
        farthest = np.sqrt(longest) + np.sqrt(square)
        outcome.inexact[head, query] = min(np.sqrt(off * spread) / least, farthest) if clear else farthest
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def read_output(use, span, truth, head, query, out):
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
