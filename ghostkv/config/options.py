"""What values an option of a method takes: a selector annotates its fields with these, and the config checks them.

An annotation is read from the source of the method, so it may name what stands here and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise PydanticCustomError("odd", "an odd number")
    return value


@dataclass(frozen=True)
class PerKey:
    """Of an option that only a key's width bounds: at most so many a coordinate; `divides`: a divisor of the width."""

    most: int = 1
    divides: bool = False


# At least one of something; more than a million of nothing that is counted here.
Count = Annotated[int, Field(ge=1, le=1 << 20)]
# None of it, or some.
Whole = Annotated[int, Field(ge=0, le=1 << 20)]
# Components of a key; no head is wider.
Width = Annotated[int, Field(ge=1, le=1024), PerKey()]
# Pieces that a key is cut into, all of one width.
Pieces = Annotated[int, Field(ge=1, le=1024), PerKey(divides=True)]
# Bytes of the code of a key, which in float16 has two bytes a coordinate.
CodeBytes = Annotated[int, Field(ge=1, le=2048), PerKey(most=2)]
Odd = Annotated[Count, AfterValidator(_odd)]
# Of a whole, both ends included.
Part = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]

__all__ = [
    "Amount",
    "Annotated",
    "CodeBytes",
    "Count",
    "Field",
    "Literal",
    "Odd",
    "Part",
    "Pieces",
    "Whole",
    "Width",
]
