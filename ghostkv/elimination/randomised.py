"""The randomised certificate: dropped mass at most delta, but for a stated probability over the codec's own coins.

Cauchy-Schwarz gives every key a margin for the worst direction, ``sqrt(head_dim)`` standard deviations wide. The errors of a
dithered record (`ghostkv.codecs.dithered`) are independent from key to key, so a *sum* over many keys is known far
better than its terms. For thresholds ``tau`` and numbers ``l`` fixed before the coins fall, with probability ``1 - exp(-L)``,

    sum_E exp(s) <= (sum_E exp(s_hat) / E exp(xi) + sum_others psi(s) + L exp(tau) / l) / (1 - r)

for every set E of keys whose estimate is below tau. docs/certificates.md derives it, with what adaptive queries do to it. Which
E, tau and l of a finite grid are used may depend on anything, at the price of a larger L.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ghostkv.codecs.base import Decoded
from ghostkv.codecs.dithered import Dithered, NoiseLaw
from ghostkv.elimination.bounds import from_estimates
from ghostkv.elimination.certificates import bound_output
from ghostkv.elimination.ledger import Costs, Outcome
from ghostkv.elimination.randomised_loop import GRID, TILTS, ChanceRule, chance_loop
from ghostkv.elimination.truth import Truth


class Dithers(NamedTuple):
    """What a dithered record says of each score of a group; float32 [group, queries, keys] unless said."""

    upper: (
        np.ndarray
    )  # estimates and what was clipped and rounded: at least ``s + xi`` for a score s and its error xi
    estimate: np.ndarray
    low: np.ndarray  # bounds of the score with K in full
    high: np.ndarray
    law: NoiseLaw  # float64 [group, queries]


def read_dithers(codec: Dithered, decoded: Sequence[Decoded], queries: np.ndarray, scale: float) -> Dithers:
    """What records say of the scores of a group's queries, float32 [group, queries, head_dim].

    Parameters
    ----------
    decoded : sequence of Decoded
        The records as both levels of the codec read them.
    """
    flat = queries.reshape(-1, queries.shape[-1])
    projected = codec.project(flat)
    bounds = []
    for level in decoded:
        estimates = codec.estimate(projected, level, scale)
        bounds.append((estimates, from_estimates(estimates, codec.margins(projected, level, scale))))
    (estimates, first), (_, full) = bounds
    shape = (*queries.shape[:2], -1)
    scores = (part.reshape(shape) for part in (first.upper, estimates, full.lower, full.upper))
    law = NoiseLaw(*(part.reshape(shape[:2]) for part in codec.law(projected, scale)))
    return Dithers(*scores, law)


def far_off(dithers: Dithers, truth: Truth, failure: float) -> tuple[int, int]:
    """Pairs of query and cold key, and those whose estimate is further off than has probability `failure` for a pair.

    That is ``sqrt(2 ln(2 / failure))`` standard deviations of the law, whatever head_dim is, beside what was clipped and rounded.
    """
    reach = (np.sqrt(2.0 * np.log(2.0 / failure)) * dithers.law.deviation[..., None]).astype(np.float32)
    margin = dithers.upper - dithers.estimate
    cold = truth.visible.mask(truth.scores.shape[-1])
    within = np.abs(dithers.estimate - truth.scores) <= reach + margin
    return int(cold.sum()) * len(truth.scores), int(np.count_nonzero(~within & cold))


def certify_by_chance(
    dithers: Dithers, truth: Truth, costs: Costs, delta: float, failure: float, together: bool = False
) -> Outcome:
    """Eliminate keys that hold at most a share `delta` of the mass, but for probability `failure` a head and query.

    Parameters
    ----------
    costs : Costs
        Of a record with one level, and of K in full.
    failure : float
        Over the coins of the codec, for a query and keys that were chosen without knowing them; they may be anything else.
    together : bool
        Whether the heads of the group leave out the same keys, each within its own budget.
    """
    outcome = Outcome.empty(truth.scores.shape, truth.values.shape[1])
    exact = truth.visible.seen(truth.scores.shape[-1]) & ~truth.visible.mask(truth.scores.shape[-1])
    # Thresholds are counted from a score that no coin has a part in.
    origin = np.where(exact, truth.low, -np.inf).max(axis=-1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        kept = np.exp(np.where(exact, truth.low, -np.inf) - origin[..., None]).sum(axis=-1) * (1.0 - 2.0**-30)
    exponent = np.log(2.0 * GRID * len(TILTS) / failure)
    chance_loop(dithers, origin, kept, truth, ChanceRule(delta, failure, exponent, costs), together, outcome)
    if truth.values.shape[1]:
        bound_output(truth, outcome)
    return outcome
