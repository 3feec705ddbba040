"""Calibration repeated on resampled documents, and tests of whether documents are alike.

A calibration is a number of texts, or as many queries, drawn from all measured texts. Losses at every theta are summed once a
text, so that a draw is a weighting of texts and hundreds of calibrations are one product of matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np

from ghostkv.stages.calibrated.conformal import Goal
from ghostkv.stages.calibrated.high_probability import BENTKUS, CONFORMAL, leading, mean_allowed

# How calibrations are drawn.
#   queries  single queries of all texts, with replacement: independent, and the risk is known exactly
#   texts    whole texts, with replacement, their queries taken for independent
#   split    whole texts, without replacement; the risk is that of the texts that were not drawn
DRAWS = ("queries", "texts", "split")
# A risk counts as above its target by more than this: what sums of float32 leave.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Resampling:
    """What a repetition of calibrations depends on."""

    resamplings: int
    failure: float  # of the high-probability thresholds
    texts: int  # drawn for each calibration
    seed: int


class Repeated(NamedTuple):
    """Many calibrations of one goal; arrays of shape [heads]."""

    draw: str
    method: str
    queries: float  # of a calibration, mean
    above: np.ndarray  # share of calibrations whose risk is above the target
    risk: np.ndarray  # mean over calibrations
    promising: float  # share of calibrations whose target is not below what the method can promise at all


class _Drawn(NamedTuple):
    mean: np.ndarray  # [heads, calibrations, thetas]; of a calibration's losses
    samples: np.ndarray  # [calibrations]
    risk: np.ndarray  # [heads, calibrations or 1, thetas]; what thresholds are held against


def repeat(risks: Sequence[np.ndarray], goal: Goal, job: Resampling) -> Iterator[Repeated]:
    """Calibrate again and again, conformal and with high probability.

    Parameters
    ----------
    risks : sequence of ndarray, shape [heads, queries, thetas]
        One a text; growing with theta, in [0, 1].
    """
    for draw in DRAWS:
        drawn = _draw(draw, risks, job)
        for method, failure in ((CONFORMAL, 0.0), (BENTKUS, job.failure)):
            limits = np.array([mean_allowed(int(n), goal.target, failure) for n in drawn.samples])
            index = leading(drawn.mean <= limits[:, None])
            risk = np.broadcast_to(drawn.risk, drawn.mean.shape)
            found = np.take_along_axis(risk, np.maximum(index, 0)[..., None], axis=2)[..., 0]
            found = np.where(index < 0, 0.0, found)
            above = (found > goal.target + _ROUNDING).mean(axis=1)
            samples = float(drawn.samples.mean())
            yield Repeated(draw, method, samples, above, found.mean(axis=1), float((limits >= 0.0).mean()))


def _draw(draw: str, risks: Sequence[np.ndarray], job: Resampling) -> _Drawn:
    rng = np.random.default_rng(job.seed)
    sizes = np.array([risk.shape[1] for risk in risks])
    sums = np.stack([risk.sum(axis=1, dtype=np.float32) for risk in risks], axis=1)
    pool = sums.sum(axis=1, keepdims=True) / sizes.sum()
    if draw == "queries":
        count = round(sizes.mean() * job.texts)
        weight = rng.multinomial(count, np.full(sizes.sum(), 1.0 / sizes.sum()), job.resamplings)
        mean = weight.astype(np.float32) @ np.concatenate(risks, axis=1) / np.float32(count)
        return _Drawn(mean, np.full(job.resamplings, count), pool)
    if draw == "texts":
        weight = rng.multinomial(job.texts, np.full(len(sizes), 1.0 / len(sizes)), job.resamplings)
    else:
        weight = (rng.random((job.resamplings, len(sizes))).argsort(axis=1) < job.texts).astype(int)
    samples = weight @ sizes
    mean = weight.astype(np.float32) @ sums / samples[:, None].astype(np.float32)
    if draw == "texts":
        return _Drawn(mean, samples, pool)
    rest = 1 - weight
    return _Drawn(mean, samples, rest.astype(np.float32) @ sums / (rest @ sizes)[:, None].astype(np.float32))


def alike_queries(losses: np.ndarray, sizes: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """p-values that queries do not depend on their text, shape [heads]: the spread of the texts' means, permuted.

    Parameters
    ----------
    losses : ndarray, shape [heads, queries]
        At one theta of each head that treats all texts alike; text after text.
    sizes : ndarray of int, shape [texts]
    """
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    order = rng.permuted(np.tile(np.arange(losses.shape[1]), (permutations, 1)), axis=1)

    def spread(values: np.ndarray) -> np.ndarray:
        return (np.add.reduceat(values, starts, axis=-1) ** 2 / sizes).sum(axis=-1)

    losses = np.asarray(losses, np.float64)
    own = spread(losses)
    # Equal up to the order of sums is equal: then nothing speaks for a difference.
    at_least = np.stack(
        [(spread(head[order]) >= one * (1 - 1e-12)).sum() for head, one in zip(losses, own, strict=True)]
    )
    return (1.0 + at_least) / (permutations + 1.0)


class Alike(NamedTuple):
    """Whether two groups of texts differ, over all heads."""

    each: np.ndarray  # p-value of each head
    joint: float  # of all heads together
    least: float  # the smallest p-value that so many texts allow


def alike_texts(means: np.ndarray, first: np.ndarray, permutations: int, seed: int) -> Alike:
    """Whether texts of one role lose as those of the others do: the difference of means, texts permuted.

    Parameters
    ----------
    means : ndarray, shape [heads, texts]
        Each text's mean loss at a theta that treats all texts alike.
    first : ndarray of bool, shape [texts]
        The texts of that role.
    permutations : int
        Random ones, where there are more ways to give so many texts the role.
    """
    count, texts = int(first.sum()), len(first)
    if comb(texts, count) <= permutations:
        roles = np.array([np.isin(np.arange(texts), one) for one in combinations(range(texts), count)], float)
    else:
        rng = np.random.default_rng(seed)
        roles = rng.permuted(np.tile(first.astype(float), (permutations, 1)), axis=1)
        roles = np.concatenate([first[None], roles])
    own = first.astype(float)
    own = own / own.sum() - (1 - own) / (1 - own).sum()
    weight = roles / roles.sum(axis=1, keepdims=True) - (1 - roles) / (1 - roles).sum(axis=1, keepdims=True)
    spread = means.std(axis=1, keepdims=True)
    # A head whose texts are all the same says nothing, and is equal under every permutation.
    scaled = np.divide(
        means - means.mean(axis=1, keepdims=True), spread, out=np.zeros_like(means), where=spread > 1e-12
    )
    difference, here = np.abs(scaled @ weight.T), np.abs(scaled @ own)
    each = (difference >= here[:, None] - 1e-9).mean(axis=1)
    whole, here = (difference**2).sum(axis=0), (here**2).sum()
    same = np.abs(np.abs(weight @ own) - own @ own) < 1e-9
    return Alike(each, float((whole >= here * (1 - 1e-9)).mean()), float(same.mean()))


def false_discovery(p_values: np.ndarray, level: float = 0.05) -> int:
    """How many hypotheses are rejected so that falsely rejected ones are at most a share `level` on average, however the
    tests depend on each other (Benjamini and Yekutieli 2001)."""
    count = len(p_values)
    ranks = np.arange(1, count + 1)
    harmonic = (1.0 / ranks).sum()
    within = np.flatnonzero(np.sort(p_values) <= level * ranks / (count * harmonic))
    return int(within[-1]) + 1 if within.size else 0
