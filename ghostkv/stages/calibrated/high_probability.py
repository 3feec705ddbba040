"""Thresholds that keep their target but for a stated probability: risk-controlling prediction sets (Bates et al. 2021).

Conformal risk control bounds a mean over calibrations. Here at most a share `failure` of calibrations may lie above the target.
Theta is the largest for which, at it and at every smaller theta, "the risk is above target" is rejected at level `failure`.
Risks grow with theta, so an error needs the rejection at one fixed theta: no correction for many is due.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import bdtr

from ghostkv.files.compiled import njit
from ghostkv.stages.calibrated.conformal import CalibratedThresholds, Goal, floor

CONFORMAL, BENTKUS, BETTING = "conformal", "hoeffding_bentkus", "betting"
METHODS = (CONFORMAL, BENTKUS, BETTING)


@lru_cache(maxsize=4096)
def mean_allowed(samples: int, target: float, failure: float) -> float:
    """The largest mean loss of `samples` queries that rejects a risk above `target`; -1 where none does.

    `failure` 0 asks for conformal risk control instead. Otherwise the test is that of Hoeffding and Bentkus (Bates et al. 2021,
    section 3.1.2), whose p-value depends on nothing but the mean: the smaller of ``exp(-n kl(mean, target))`` and
    ``e P(Binomial(n, target) <= ceil(n mean))``.
    """
    if not failure:
        return ((samples + 1) * target - 1.0) / samples
    allowed, most = -1.0, -math.log(failure) / samples
    if _divergence(0.0, target) >= most:
        low, high = 0.0, target
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if _divergence(middle, target) >= most else (low, middle)
        allowed = low
    counts = np.arange(int(samples * target) + 1)
    fits = np.flatnonzero(math.e * bdtr(counts, samples, target) <= failure)
    return max(allowed, float(fits[-1]) / samples if fits.size else -1.0)


def _divergence(mean: float, target: float) -> float:
    rest = (1.0 - mean) * math.log((1.0 - mean) / (1.0 - target))
    return rest + (mean * math.log(mean / target) if mean > 0.0 else 0.0)


def leading(within: np.ndarray) -> np.ndarray:
    """Index of the last theta before the first that fails; -1 for none. `within` is bool [..., thetas]."""
    return np.where(within.all(axis=-1), within.shape[-1], np.argmin(within, axis=-1)) - 1


def calibrate_surely(
    risks: Sequence[np.ndarray], goal: Goal, failure: float, method: str, seed: int
) -> CalibratedThresholds:
    """The largest threshold whose risk is at most the target but for a probability `failure` over calibrations.

    Parameters
    ----------
    risks : sequence of ndarray, shape [group, queries, thetas]
        One a text; they grow with theta and are in [0, 1].
    method : str
        `hoeffding_bentkus` or `betting`.
    seed : int
        Of the order in which the bets go through the queries.
    """
    losses = np.concatenate(risks, axis=1)
    samples = losses.shape[1]
    if method == BENTKUS:
        mean = losses.mean(axis=1, dtype=np.float64)
        index = leading(mean <= mean_allowed(samples, goal.target, failure))
    else:
        order = np.random.default_rng(seed).permutation(samples)
        index = np.array([_betting_index(head, order, goal.target, failure) for head in losses])
    possible = goal.target >= floor(samples, failure)
    return CalibratedThresholds(goal, index, samples, possible, failure)


@njit(cache=True, nogil=True, error_model="numpy")
def _betting_index(losses, order, target, failure):
    """The last theta before the first at which no gambler who bets on less than `target` comes to ``1 / failure``.

    Bets are those of Waudby-Smith and Ramdas (2024), as Bates et al. (2021, proposition 5) take them: predictable, from the mean and
    variance of the losses before.
    """
    count = order.size
    stake = -2.0 * np.log(failure) / count
    for theta in range(losses.shape[1]):
        capital, total, spread, variance, won = 1.0, 0.5, 0.25, 0.25, False
        for i in range(count):
            loss = losses[order[i], theta]
            capital *= 1.0 - min(1.0, np.sqrt(stake / variance)) * (loss - target)
            if capital >= 1.0 / failure:
                won = True
                break
            total += loss
            spread += (loss - total / (i + 2)) ** 2
            variance = spread / (i + 2)
        if not won:
            return theta - 1
    return losses.shape[1] - 1
