"""Certificates: eliminations whose loss is bounded for every query by arithmetic.

Both certificates read a key's record level by level, each level only for keys that are still undecided, and end with
K and V of those that remain. docs/certificates.md derives them, rounding included.

*Top-k*: ``theta`` is the k-th largest of what is certain of any visible key: exact scores of kept keys, of probes
(the best estimates, whose K is read), and lower bounds. At least k keys score ``theta`` or more, so a key whose upper
bound is below it is in no exact top-k, however ties are broken.

*Dropped mass*: with ``E`` the eliminated keys, ``sum_E exp(upper) <= delta / (1 - delta) * sum_kept exp(lower)``
implies that the softmax mass of ``E`` is at most ``delta``. Which keys stop early is guessed from estimates; the
inequality is then established for the outcome, and keys that break it are read after all. The output is bounded with
tail compensation (`ghostkv.elimination.compensation`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ghostkv.elimination.compensation import output_bound
from ghostkv.elimination.ledger import Costs, Outcome
from ghostkv.elimination.mass_loop import MassRule, mass_loop
from ghostkv.elimination.powers import Powers
from ghostkv.elimination.topk_loop import TopkRule, topk_loop
from ghostkv.elimination.truth import Truth

STORAGES = ("nested", "additive")


def certify_topk(
    lower: np.ndarray, upper: np.ndarray, truth: Truth, costs: Costs, probes: Sequence[int], top_k: int
) -> Outcome:
    """Eliminate what is certainly in no exact top-k.

    Parameters
    ----------
    lower, upper : ndarray of float32, shape [levels + 1, group, queries, keys]
        Bounds known once a level is read; the last entry is what K in full says.
    truth : Truth
        Read for the exact keys, and to verify the outcome.
    probes : sequence of int, length levels
        Keys with the best estimates whose K is read in full after each level.
    """
    outcome = Outcome.empty(truth.scores.shape)
    topk_loop(lower, upper, truth, TopkRule(top_k, np.asarray(probes, np.int64), costs), outcome)
    return outcome


def certify_mass(
    lower: np.ndarray,
    upper: np.ndarray,
    powers: Powers,
    truth: Truth,
    costs: Costs,
    shares: Sequence[float],
    delta: float,
    together: bool = False,
) -> Outcome:
    """Eliminate as many keys as certainly hold at most a share `delta` of the mass.

    Parameters
    ----------
    lower, upper : ndarray of float32, shape [levels + 1, group, queries, keys]
    shares : sequence of float, length levels
        Share of the budget that keys stopped at or before each level may take.
    together : bool
        Whether the heads of the group leave out the same keys, each within its own budget. Each by itself leaves out more, but
        a key is read if any head of the group reads it.
    """
    outcome = Outcome.empty(truth.scores.shape, truth.values.shape[1])
    rule = MassRule(delta, np.asarray(shares, np.float64), costs)
    mass_loop(lower, upper, powers, truth, rule, together, outcome)
    if truth.values.shape[1]:
        bound_output(truth, outcome)
    return outcome


def bound_output(truth: Truth, outcome: Outcome) -> None:
    """Hold the error of the compensated output against its bound."""
    share = outcome.share[..., None]
    output = (1.0 - share) * outcome.read + share * truth.means
    outcome.error[...] = np.linalg.norm(truth.outputs - output, axis=-1)
    bound = output_bound(
        outcome.certified, outcome.share, truth.largest, outcome.read, truth.means, outcome.inexact
    )
    outcome.error_bound[...] = bound
