"""An alarm for a risk that drifts from what thresholds were calibrated for, valid at any time.

A gambler bets, step by step, that the loss will exceed its target. While the expected loss of each step, given the steps
before, is at most the target, the capital is a nonnegative supermartingale that starts at 1: it ever reaches
``1 / failure`` with a probability of at most `failure` (Ville 1939). So one may look after every step and stop at the first
alarm. Betting on a bounded mean: Waudby-Smith and Ramdas 2024; on a deployed model's risk: Podkopaev and Ramdas 2022.
docs/calibrated.md, section 6.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ghostkv.files.errors import ConfigError

# Shares of the largest bet that can lose everything at once. Large ones see a large drift soon, small ones a small drift
# late; the capital is spread evenly over all.
_BETS = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8])


class Monitor:
    """Evidence that the losses of a decode lie above a target.

    Parameters
    ----------
    target : float
        Largest expected loss that is no reason for an alarm; losses are in [0, 1].
    failure : float
        Probability of an alarm, ever, while the target is kept.

    Raises
    ------
    ConfigError
        A parameter is not strictly between 0 and 1.
    """

    def __init__(self, target: float, failure: float = 0.05) -> None:
        for name, value in (("target", target), ("failure", failure)):
            if not 0.0 < value < 1.0:
                raise ConfigError(
                    f"Monitor: {name} is {value}. Accepted: a number between 0 and 1, both excluded"
                )
        self.target, self.failure = target, failure
        self.reset()

    def reset(self) -> None:
        """Begin anew, with capital 1."""
        self.steps = 0
        self.alarm: int | None = (
            None  # the step, counted from 1, after which the evidence first reached 1 / failure
        )
        self._log_capital = np.zeros(len(_BETS))

    def update(self, losses: ArrayLike) -> np.ndarray:
        """Add the losses of one or more steps, in order.

        Parameters
        ----------
        losses : array_like of float in [0, 1], shape [steps] or a number

        Returns
        -------
        ndarray of float64, shape [steps]
            The evidence after each step: the capital of a gambler who started with 1.

        Raises
        ------
        ValueError
            A loss is not in [0, 1], or not a number.
        """
        found = np.atleast_1d(np.asarray(losses, np.float64))
        if not ((found >= 0.0) & (found <= 1.0)).all():
            raise ValueError("a monitored loss is not in [0, 1]")
        won = np.log1p(_BETS * (found[:, None] / self.target - 1.0)).cumsum(axis=0) + self._log_capital
        evidence = np.exp(np.minimum(won, 700.0)).mean(axis=1)
        over = np.flatnonzero(evidence >= 1.0 / self.failure)
        if self.alarm is None and over.size:
            self.alarm = self.steps + int(over[0]) + 1
        if len(won):
            self._log_capital, self.steps = won[-1], self.steps + len(won)
        return evidence
