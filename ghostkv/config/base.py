"""What all config sections share."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

PositiveInt = Annotated[int, Field(gt=0)]
PositiveInts = Annotated[list[PositiveInt], Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _ascending(values: list) -> list:
    if values != sorted(set(values)):
        raise PydanticCustomError("ascending", "ascending, each once", {"write": sorted(set(values))})
    return values


Ascending = AfterValidator(_ascending)


def once(by: str | None = None) -> AfterValidator:
    """Refuses a list in which an entry, or what its key `by` says, stands twice."""

    def check(values: list) -> list:
        names = [value if by is None else getattr(value, by) for value in values]
        first = [number for number, name in enumerate(names) if name not in names[:number]]
        if len(first) < len(values):
            again = next(name for number, name in enumerate(names) if name in names[:number])
            kept = plain_of([values[number] for number in first])
            told = {"again": str(plain_of(again)), "write": kept}
            raise PydanticCustomError("twice", "each once, not {again} twice", told)
        return values

    return AfterValidator(check)


def plain_of(value: Any) -> Any:
    """A section, or a list of them, as YAML would have it; anything else as it is."""
    if isinstance(value, list):
        return [plain_of(item) for item in value]
    return value.plain() if isinstance(value, Section) else value


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, coerce_numbers_to_str=True, allow_inf_nan=False
    )

    def plain(self, without: Collection[str] = ()) -> dict[str, Any]:
        """The section as plain dicts, lists and scalars under the names that config.yaml uses.

        Snakemake compares params by their repr, so params are made of these and never of models.
        """
        full = self.model_dump(mode="json", by_alias=True)
        return {key: value for key, value in full.items() if key not in without}


def setting(default: Any, about: str, **limits: Any) -> Any:
    """A key of a section: its default (`...` where one must be written), what it means, and pydantic's limits."""
    return Field(default, description=about, **limits)


def part(section: type[Section]) -> Any:
    """A key that holds a section at its defaults; what it means is what the section says of itself."""
    return setting(section(), inspect.getdoc(section))


class NamedEntry(Section):
    """A method by name, and whatever options it takes; sections refuse others."""

    model_config = ConfigDict(extra="allow")

    def plain(self, without: Collection[str] = ()) -> dict[str, Any]:
        """The entry, name first."""
        full = super().plain(without)
        return {"name": full.pop("name"), **full}


class GridEntry(Section):
    """Evenly spaced values."""

    start: float = setting(..., "First value.")
    stop: float = setting(..., "Last value, included.")
    count: PositiveInt = setting(..., "Number of values. The cost of a sweep does not grow with it.")
