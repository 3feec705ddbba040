"""What values an option of a method takes: a selector annotates its fields with these, and the config checks them.

An annotation is read from the source of the method, so it may name what stands here and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise PydanticCustomError("odd", "an odd number")
    return value


@dataclass(frozen=True)
class PerKey:
    """Of an option that only a key's width bounds: at most one a coordinate; `divides`: a divisor of the width."""

    divides: bool = False


# What sizes were called when they were given in bytes of code; of `record_bytes` one was the residual norm.
IN_BYTES = ("bytes", "code_bytes", "record_bytes")


def write_bits(key: str, value: Any) -> str:
    """What to write in place of a size in bytes: the same record of a key of head_dim 64."""
    sizes = value if isinstance(value, list) else [value]
    bits = [8 * (one - (key == "record_bytes")) / 64 for one in sizes if type(one) is int]
    shown = ", ".join(f"{one:g}" for one in bits) or "1"
    return (
        "Sizes are in bits a coordinate, 8 * bytes / head_dim. Write: bits: "
        + (f"[{shown}]" if isinstance(value, list) else shown)
        + "   (the same bytes at head_dim 64)"
    )


# At least one of something; more than a million of nothing that is counted here.
Count = Annotated[int, Field(ge=1, le=1 << 20)]
# None of it, or some.
Whole = Annotated[int, Field(ge=0, le=1 << 20)]
# Components of a key; no head is wider.
Width = Annotated[int, Field(ge=1, le=1024), PerKey()]
# Pieces that a key is cut into, all of one width.
Pieces = Annotated[int, Field(ge=1, le=1024), PerKey(divides=True)]
# Bits a coordinate of the code of a key: no codec of one level writes more than a byte of each.
CodeBits = Annotated[float, Field(gt=0, le=8)]
# Codecs whose estimates a selector may choose keys by.
RecordCodec = Literal["transform_code", "turned_code", "vector_code"]
Odd = Annotated[Count, AfterValidator(_odd)]
# Of a whole, both ends included.
Part = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]

__all__ = [
    "Amount",
    "Annotated",
    "CodeBits",
    "Count",
    "Field",
    "Literal",
    "Odd",
    "Part",
    "Pieces",
    "RecordCodec",
    "Whole",
    "Width",
]
