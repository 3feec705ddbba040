"""What values an option of a method takes: a selector annotates its fields with these, and the config checks them.

An annotation is read from the source of the method, so it may name what stands here and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise PydanticCustomError("odd", "an odd number")
    return value


# At least one of something; more than a million of nothing that is counted here.
Count = Annotated[int, Field(ge=1, le=1 << 20)]
# None of it, or some.
Whole = Annotated[int, Field(ge=0, le=1 << 20)]
# Components of a key; no head is wider.
Width = Annotated[int, Field(ge=1, le=1024)]
Odd = Annotated[Count, AfterValidator(_odd)]
# Of a whole, both ends included.
Part = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]

__all__ = ["Amount", "Annotated", "Count", "Field", "Literal", "Odd", "Part", "Whole", "Width"]
