"""How sure a figure is: intervals of shares, of paired answers, and of means over documents; many comparisons; power.

Queries, heads and layers of one document resemble one another, so what is independent is the document: a claim about text
has an interval over means of documents, however many heads and queries each mean holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, betaincinv, nctdtrinc, stdtr, stdtrit

LEVEL = 0.95
POWER = 0.8
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


def clopper_pearson(right: float, of: float) -> tuple[float, float]:
    """95 % exact interval of a share (Clopper and Pearson 1934): covers at least so often; (0, 1) of nothing.

    Of effective counts, which need not be whole, the same formula.
    """
    if not of:
        return 0.0, 1.0
    low = float(betaincinv(right, of - right + 1, 0.025)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, of - right, 0.975)) if right < of else 1.0
    return low, high


def clustered(right: Sequence[int], of: Sequence[int]) -> tuple[float, float]:
    """95 % interval of a share whose questions stand on common ground, such as one haystack (Korn and Graubard 1998).

    The interval of Clopper and Pearson, of as many independent questions as the spread between clusters leaves. Where all
    answers are right, or all wrong, that spread cannot be seen: a cluster then counts as a single question.

    Parameters
    ----------
    right, of : sequence of int
        Right answers and questions of each cluster. One question a cluster is `clopper_pearson`.
    """
    found, counts = (np.array(values, float)[np.asarray(of) > 0] for values in (right, of))
    asked, clusters = counts.sum(), len(counts)
    if not asked:
        return 0.0, 1.0
    share = found.sum() / asked
    if clusters == asked:
        effective = asked
    elif clusters < 2 or share in (0.0, 1.0):
        effective = float(clusters)
    else:
        between = clusters / (clusters - 1) * ((found - share * counts) ** 2).sum() / asked**2
        # So few clusters know their own spread poorly: Student's quantiles instead of the normal's.
        known = (stdtrit(asked - 1, 0.975) / stdtrit(clusters - 1, 0.975)) ** 2
        effective = min(asked, known * share * (1 - share) / between) if between else asked
    return clopper_pearson(share * effective, effective)


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p-value that two answerers of the same questions are equally good (McNemar 1947).

    Parameters
    ----------
    lost, won : int
        Questions, or groups of them, on which only the first, only the second does better.
    """
    # Twice the tail of a fair coin; importing `scipy.stats` for its test takes a second.
    return min(2 * float(bdtr(min(lost, won), lost + won, 0.5)), 1.0) if lost + won else 1.0


def relative_interval(
    kept: tuple[Sequence[int], Sequence[int]], gained: tuple[Sequence[int], Sequence[int]]
) -> tuple[float, float]:
    """A conservative interval of relative accuracy on paired questions: (kept + gained) over what the first answers right.

    The share kept of what the first answers right and the share gained of what it does not each have their `clustered`
    interval; the low end counts the least of both, the high end the most.

    Parameters
    ----------
    kept, gained : pair of sequences of int
        By cluster: right answers of the second, and questions, of those that the first answers right, and of the others.

    Raises
    ------
    ValueError
        The first answers nothing right.
    """
    right, wrong = sum(kept[1]), sum(gained[1])
    if not right:
        raise ValueError("relative accuracy of a first answerer that is never right")
    least, most = clustered(*kept)
    low, high = clustered(*gained) if wrong else (0.0, 0.0)
    return least + low * wrong / right, most + high * wrong / right


def over_documents(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and 95 % Student interval of independent values, one a document; no interval for a single one.

    Of paired methods the values are differences, or logarithms of ratios. With three documents the quantile is 4.3 standard
    errors, with twelve 2.2.
    """
    found = np.asarray(values, float)
    mean = float(found.mean())
    if len(found) < 2:
        return mean, None, None
    reach = float(stdtrit(len(found) - 1, 0.5 + LEVEL / 2)) * _standard_error(found)
    return mean, mean - reach, mean + reach


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of Student's test that paired differences, one a document, have mean 0; None for a single one."""
    found = np.asarray(differences, float)
    if len(found) < 2:
        return None
    error = _standard_error(found)
    if not error:
        return 0.0 if found.mean() else 1.0
    return float(2 * stdtr(len(found) - 1, -abs(found.mean()) / error))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values corrected for being many (Holm 1979), in their order.

    Those at or below alpha may all be claimed: that any of them is a false claim has probability alpha at most, whatever
    their dependence.
    """
    found = np.asarray(p_values, float)
    order = np.argsort(found, kind="stable")
    # The smallest is multiplied by their number, the next by one less, and none falls below one before it.
    raised = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    adjusted = np.empty(len(found))
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted


def least_seen(spread: float, documents: int, comparisons: int = 1) -> float | None:
    """The least true difference that a paired Student test at level 5 % finds with probability 80 %.

    Parameters
    ----------
    spread : float
        Standard deviation of the difference between documents.
    documents : int
        A difference below what is returned could have been there unseen. None for a single document.
    comparisons : int
        Tests that share the level (Bonferroni).
    """
    if documents < 2:
        return None
    critical = stdtrit(documents - 1, 1 - (1 - LEVEL) / (2 * comparisons))
    # The far tail adds less than 1e-6 to the power, and is left out.
    return float(nctdtrinc(documents - 1, 1 - POWER, critical)) * spread / math.sqrt(documents)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))
