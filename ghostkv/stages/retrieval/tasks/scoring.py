"""RULER's scores: how much of what was asked for is in the answer."""

from __future__ import annotations

from collections.abc import Sequence

RULES = ("all", "part")


def score(answer: str, references: Sequence[str], rule: str) -> float:
    """Score of one answer.

    Parameters
    ----------
    rule : {"all", "part"}
        all: the share of references that the answer contains; part: 1 if it contains any of them. Case does
        not count. (Hsieh et al. 2024, section 4: recall-based string match.)

    Returns
    -------
    float in [0, 1]
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is none of {RULES}")
    said = answer.lower()
    found = [reference.lower() in said for reference in references]
    return float(any(found)) if rule == "part" else sum(found) / len(found)
