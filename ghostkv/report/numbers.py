"""Numbers as people read them: the formats of tables, captions and prose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

NONE = "–"


def percent(value: float | None, digits: int | None = None) -> str:
    """A share as per cent, with more digits where it is small or close to one."""
    if value is None:
        return NONE
    if digits is None:
        rest = min(abs(value), abs(1 - value))
        digits = 2 if 0 < rest < 0.01 else 1
    return f"{100 * value:.{digits}f} %"


def ratio(value: float | None) -> str:
    """A ratio with three decimals."""
    return NONE if value is None else f"{value:.3f}"


def factor(value: float | None) -> str:
    """How many times as much."""
    if value is None:
        return NONE
    return f"{value:.2f}x" if value < 10 else f"{value:,.0f}x"


def tiny(value: float | None) -> str:
    """A relative error, in powers of ten."""
    return NONE if value is None else f"{value:.1e}"


def integer(value: float | None) -> str:
    """A count with thousands separators."""
    return NONE if value is None else f"{value:,.0f}"


def number(value: float | None) -> str:
    """A quantity with a unit of its own, three significant digits; large ones in full, with thousands separators."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def yes_no(value: bool | None) -> str:
    """A truth value as a word."""
    return NONE if value is None else ("yes" if value else "no")


def text(value: Any) -> str:
    """Anything else."""
    return NONE if value is None else str(value)


FORMATS: Mapping[str, Callable[[Any], str]] = {
    "percent": percent,
    "ratio": ratio,
    "factor": factor,
    "tiny": tiny,
    "integer": integer,
    "number": number,
    "yes_no": yes_no,
    "text": text,
    # Printed already, but still a number to the eye.
    "figure": text,
}
# Words read from the left, numbers are compared from the right.
LEFT_ALIGNED = frozenset({"text", "yes_no"})


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1] if words else "") if part)


def counted(count: int, word: str) -> str:
    """`1 text`, `3 texts`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
