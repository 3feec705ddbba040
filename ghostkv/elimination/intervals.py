"""Intervals of shares: Wilson, Clopper-Pearson, and of a paired comparison."""

from __future__ import annotations

import math

from scipy.special import bdtr, betaincinv

_Z = 1.959963984540054  # two-sided 95 %


def wilson(right: int, of: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); (0, 1) of nothing."""
    if not of:
        return 0.0, 1.0
    share, square = right / of, _Z * _Z
    centre = (share + square / (2 * of)) / (1 + square / of)
    half = _Z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    # Both ends are exact at the ends of the scale, where rounding would leave a crumb.
    return (0.0 if right == 0 else max(centre - half, 0.0)), (1.0 if right == of else min(centre + half, 1.0))


def clopper_pearson(right: int, of: int) -> tuple[float, float]:
    """95 % exact interval of a share (Clopper and Pearson 1934): covers at least so often; (0, 1) of nothing."""
    if not of:
        return 0.0, 1.0
    low = float(betaincinv(right, of - right + 1, 0.025)) if right else 0.0
    high = float(betaincinv(right + 1, of - right, 0.975)) if right < of else 1.0
    return low, high


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p-value that two answerers of the same questions are equally good (McNemar 1947).

    Parameters
    ----------
    lost, won : int
        Questions that only the first, only the second answers right.
    """
    # Twice the tail of a fair coin; importing `scipy.stats` for its test takes a second.
    return min(2 * float(bdtr(min(lost, won), lost + won, 0.5)), 1.0) if lost + won else 1.0


def relative_interval(both: int, lost: int, won: int, neither: int) -> tuple[float, float]:
    """A conservative interval of relative accuracy, (both + won) / (both + lost), on paired questions.

    The share kept of what the first answers right and the share gained of what it does not each have their
    Clopper-Pearson interval; the low end counts the least of both, the high end the most.

    Raises
    ------
    ValueError
        The first answers nothing right.
    """
    right, wrong = both + lost, won + neither
    if not right:
        raise ValueError("relative accuracy of a first answerer that is never right")
    kept, gained = clopper_pearson(both, right), clopper_pearson(won, wrong) if wrong else (0.0, 0.0)
    return kept[0] + gained[0] * wrong / right, kept[1] + gained[1] * wrong / right
