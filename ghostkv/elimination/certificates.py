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
from ghostkv.elimination import topk_loop as loops
from ghostkv.elimination.mass_loop import EXP_SLACK, mass_loop
from ghostkv.elimination.truth import Truth

STORAGES = ("nested", "additive")


@dataclass(frozen=True)
class Costs:
    """Bytes of each level of a record, and of K and V in full.

    Attributes
    ----------
    levels : sequence of float
        Bytes of each level that the cascade reads.
    nested_key : float
        Bytes of a K that is stored as the record and its last planes.
    head_dim, value_dim : int
        A capture without values counts them as wide as keys.
    """

    levels: Sequence[float]
    nested_key: float
    head_dim: int
    value_dim: int

    @property
    def packed(self) -> tuple:
        prefix = np.concatenate([[0.0], np.cumsum(self.levels)])
        key, value = ELEMENT_BYTES * self.head_dim, ELEMENT_BYTES * (self.value_dim or self.head_dim)
        return prefix, float(self.nested_key), float(key), float(value)

    @property
    def pair(self) -> float:
        """Bytes of a K and V in float16."""
        return self.packed[2] + self.packed[3]


@dataclass(frozen=True)
class Outcome:
    """What a certificate did to each query; arrays of shape [group, queries] unless said.

    Attributes
    ----------
    kept : ndarray of bool, shape [group, queries, keys]
        Keys that take part in the output.
    elimination : ndarray
        Share of the cold keys that were never read: bounds on their records ruled them out.
    values_unread : ndarray
        Share of the cold keys that take no part in the output: the eliminated ones, and those that their K in full
        ruled out, so that their V was not read.
    bytes_nested, bytes_additive : ndarray
        Bytes ratio per head, with K stored as the record itself or in float16 beside it.
    group_nested, group_additive : ndarray, shape [queries]
        GQA-true bytes ratio: levels, K and V once for the whole group.
    violated : ndarray
        Eliminated keys that exact scores put into the top-k, or 1 where the dropped mass exceeds the target.
    dropped, certified : ndarray
        True dropped mass, and the bound on it.
    error, error_bound : ndarray
        True ``||o - o_hat||`` and the bound on it; 0 where values were not captured.
    fallback : ndarray
        Keys that stopped early and had to be read after all.
    """

    kept: np.ndarray
    elimination: np.ndarray
    values_unread: np.ndarray
    bytes_nested: np.ndarray
    bytes_additive: np.ndarray
    group_nested: np.ndarray
    group_additive: np.ndarray
    violated: np.ndarray
    dropped: np.ndarray
    certified: np.ndarray
    error: np.ndarray
    error_bound: np.ndarray
    fallback: np.ndarray


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
    costs : Costs
    probes : sequence of int, length levels
        Keys with the best estimates whose K is read in full after each level.
    top_k : int
    """
    out, group, kept = _tables(truth.scores.shape)
    loops.topk_loop(
        upper, lower, truth.low, truth.ranges, top_k, np.asarray(probes, np.int64), costs.packed,
        truth.scores, truth.tau, out, group, kept,
    )  # fmt: skip
    return _outcome(out, group, kept, truth, costs)


@dataclass(frozen=True)
class Powers:
    """Bounds of exponentials, computed once for all targets; float32.

    Attributes
    ----------
    top : ndarray, shape [group, queries]
        What is subtracted before exponentials are taken: the largest of all lower bounds, so that none overflows.
    above, middle : ndarray, shape [levels + 1, group, queries, keys]
        Of upper bounds, and of the middle between the bounds.
    below : ndarray, shape [group, queries, keys]
        Of the lower bounds with K in full.
    kept : ndarray of float64, shape [group, queries]
        Of the exact keys, rounded down.
    """

    top: np.ndarray
    above: np.ndarray
    middle: np.ndarray
    below: np.ndarray
    kept: np.ndarray

    @classmethod
    def of(
        cls, lower: np.ndarray, upper: np.ndarray, truth: Truth, space: np.ndarray | None = None
    ) -> Powers:
        """Exponentials of bounds of shape [levels + 1, group, queries, keys].

        Parameters
        ----------
        space : ndarray of float32, shape [2, levels + 1, group, queries, keys], optional
            Where they go; fresh memory of that size costs as much as filling it.
        """
        space = np.empty((2, *lower.shape), np.float32) if space is None else space
        above, middle = space
        cold = truth.visible.mask(lower.shape[-1])
        exact = truth.visible.seen(lower.shape[-1]) & ~cold
        low = np.where(exact, truth.low, -np.inf)
        # A lower bound whose exponential overflowed would count as infinite mass that is kept, and all could go.
        top = np.maximum(low.max(axis=-1), np.where(cold, lower[-1], -np.inf).max(axis=-1))
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for level in range(len(lower)):
                np.add(upper[level], lower[level], out=middle[level])
                middle[level] *= np.float32(0.5)
                for power, source in ((middle, middle), (above, upper)):
                    np.subtract(source[level], top[..., None], out=power[level])
                    np.exp(power[level], out=power[level])
            np.nan_to_num(middle, copy=False, nan=0.0, posinf=0.0)
            below = np.exp(lower[-1] - top[..., None]) * np.float32(1.0 - EXP_SLACK)
            kept = np.exp(low - top[..., None].astype(np.float64)).sum(axis=-1) * (1.0 - 2.0**-30)
        return cls(top, above, middle, below, kept)


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
    costs : Costs
    shares : sequence of float, length levels
        Share of the budget that keys stopped at or before each level may take.
    delta : float
    """
    out, group, kept = _tables(truth.scores.shape)
    norms = np.linalg.norm(truth.values.astype(np.float64), axis=1)
    mass_loop(
        upper, lower, powers.top, powers.kept, truth.ranges, delta, np.asarray(shares, np.float64), costs.packed,
        (powers.above, powers.middle, powers.below), truth.mass, truth.values, norms, truth.outputs, out, group,
        kept,
    )  # fmt: skip
    return _outcome(out, group, kept, truth, costs)


def _tables(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((*shape[:2], loops.COLUMNS)), np.zeros((shape[1], 2)), np.zeros(shape, np.uint8)


def _outcome(out: np.ndarray, group: np.ndarray, kept: np.ndarray, truth: Truth, costs: Costs) -> Outcome:
    cold, full = np.maximum(truth.visible.cold, 1), truth.visible.visible * costs.pair
    return Outcome(
        kept.view(bool),
        out[..., loops.ELIMINATED] / cold,
        out[..., loops.VALUES_UNREAD] / cold,
        out[..., loops.BYTES_NESTED] / full,
        out[..., loops.BYTES_ADDITIVE] / full,
        group[:, 0] / full,
        group[:, 1] / full,
        *(
            out[..., column]
            for column in (
                loops.VIOLATED, loops.DROPPED, loops.CERTIFIED, loops.ERROR, loops.ERROR_BOUND, loops.FALLBACK,
            )
        ),
    )  # fmt: skip
