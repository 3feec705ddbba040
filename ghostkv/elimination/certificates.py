"""Certificates: eliminations whose loss is bounded for every query by arithmetic.

Both certificates read a key's record level by level, each level only for keys that are still undecided, and end with
K and V of those that remain. docs/certificates.md derives them, rounding included.

*Top-k*: ``theta`` is the k-th largest of what is certain of any visible key: exact scores of kept keys, of probes
(the best estimates, whose K is read), and lower bounds. At least k keys score ``theta`` or more, so a key whose upper
bound is below it is in no exact top-k, however ties are broken.

*Dropped mass*: with ``E`` the eliminated keys, ``sum_E exp(upper) <= delta / (1 - delta) * sum_kept exp(lower)``
implies that the softmax mass of ``E`` is at most ``delta``. Which keys stop early is guessed from estimates; the
inequality is then established for the outcome, and keys that break it are read after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.elimination.attention import ColdRange
from ghostkv.elimination.ledger import CertificateTally, KeyBounds, Prices, Span
from ghostkv.elimination.mass_loop import ExactOutputs, MassRule, mass_loop
from ghostkv.elimination.powers import Powers
from ghostkv.elimination.topk_loop import ExactScores, TopkRule, topk_loop
from ghostkv.elimination.truth import Truth

STORAGES = ("nested", "additive")


@dataclass(frozen=True)
class Costs:
    """Bytes of each level of a record, and of K and V in full."""

    levels: Sequence[float]  # bytes of each level that the cascade reads
    nested_key: float  # bytes of a K that is stored as the record and its last planes
    # A capture without values counts them as wide as keys
    head_dim: int
    value_dim: int

    @property
    def prices(self) -> Prices:
        """The same as loops take it."""
        return Prices(
            prefix=np.concatenate([[0.0], np.cumsum(self.levels)]),
            nested_key=float(self.nested_key),
            key=float(ELEMENT_BYTES * self.head_dim),
            value=float(ELEMENT_BYTES * (self.value_dim or self.head_dim)),
        )

    @property
    def pair(self) -> float:
        """Bytes of a K and V in float16."""
        return self.prices.key + self.prices.value


@dataclass(frozen=True)
class Outcome:
    """What a certificate did to each query; arrays of shape [group, queries] unless said."""

    kept: np.ndarray  # bool [group, queries, keys]; keys that take part in the output
    # Share of the cold keys that were never read: bounds on their records ruled them out
    elimination: np.ndarray
    # Share of the cold keys that take no part in the output: the eliminated ones, and those that their K in full
    # ruled out, so that their V was not read
    values_unread: np.ndarray
    # Bytes ratio per head, with K stored as the record itself or in float16 beside it
    bytes_nested: np.ndarray
    bytes_additive: np.ndarray
    # [queries]; GQA-true bytes ratio: levels, K and V once for the whole group
    group_nested: np.ndarray
    group_additive: np.ndarray
    # Eliminated keys that exact scores put into the top-k, or 1 where the dropped mass exceeds the target
    violated: np.ndarray
    # True dropped mass, and the bound on it
    dropped: np.ndarray
    certified: np.ndarray
    # True ``||o - o_hat||`` and the bound on it; 0 where values were not captured
    error: np.ndarray
    error_bound: np.ndarray
    fallback: np.ndarray  # keys that stopped early and had to be read after all


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
    tally = CertificateTally.empty(truth.scores.shape)
    rule = TopkRule(top_k=top_k, probes=np.asarray(probes, np.int64), prices=costs.prices)
    topk_loop(
        KeyBounds(lower=lower, upper=upper, exact=truth.low),
        spans_of(truth.visible),
        rule,
        ExactScores(scores=truth.scores, tau=truth.tau),
        tally,
    )
    return _outcome(tally, truth, costs)


def certify_mass(
    lower: np.ndarray,
    upper: np.ndarray,
    powers: Powers,
    truth: Truth,
    costs: Costs,
    shares: Sequence[float],
    delta: float,
) -> Outcome:
    """Eliminate as many keys as certainly hold at most a share `delta` of the mass.

    Parameters
    ----------
    lower, upper : ndarray of float32, shape [levels + 1, group, queries, keys]
    powers : Powers
        Of the same bounds.
    truth : Truth
        Read for the exact keys, and to verify the outcome.
    shares : sequence of float, length levels
        Share of the budget that keys stopped at or before each level may take.
    """
    tally = CertificateTally.empty(truth.scores.shape)
    norms = np.linalg.norm(truth.values.astype(np.float64), axis=1)
    mass_loop(
        KeyBounds(lower=lower, upper=upper, exact=truth.low),
        powers,
        spans_of(truth.visible),
        MassRule(delta=delta, shares=np.asarray(shares, np.float64), prices=costs.prices),
        ExactOutputs(mass=truth.mass, values=truth.values, norms=norms, outputs=truth.outputs),
        tally,
    )
    return _outcome(tally, truth, costs)


def spans_of(visible: ColdRange) -> Span:
    """Visible and cold keys as loops take them."""
    return Span(first=visible.first, start=visible.start, stop=visible.stop, last=visible.last)


def _outcome(tally: CertificateTally, truth: Truth, costs: Costs) -> Outcome:
    """Shares and ratios from keys and bytes."""
    cold, full = np.maximum(truth.visible.cold, 1), truth.visible.visible * costs.pair
    return Outcome(
        kept=tally.kept.view(bool),
        elimination=tally.eliminated / cold,
        values_unread=tally.values_unread / cold,
        bytes_nested=tally.nested / full,
        bytes_additive=tally.additive / full,
        group_nested=tally.group_nested / full,
        group_additive=tally.group_additive / full,
        violated=tally.violated,
        dropped=tally.dropped,
        certified=tally.certified,
        error=tally.error,
        error_bound=tally.error_bound,
        fallback=tally.fallback,
    )
