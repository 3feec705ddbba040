"""What all config sections share."""

from __future__ import annotations

import inspect
import math
import os.path
from collections.abc import Collection, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ghostkv.config.options import CodeBits as CodeBits
from ghostkv.config.options import Count
from ghostkv.config.words import read_words
from ghostkv.files.errors import ConfigError

Share = Annotated[float, Field(gt=0, lt=1)]
# Every number has both bounds, for what lies beyond them ends in a traceback or in no memory, hours later.
Tokens = Annotated[int, Field(ge=1, le=1 << 24)]
Exact = Annotated[int, Field(ge=0, le=1 << 20)]  # tokens that are always read
Repeats = Annotated[int, Field(ge=1, le=1000)]
Layer = Annotated[int, Field(ge=0, le=999)]
Layers = Annotated[int, Field(ge=1, le=1000)]
Heads = Annotated[int, Field(ge=1, le=1024)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Theta = Annotated[float, Field(ge=-1e6, le=1e6)]


def _ascending(values: Sequence) -> Sequence:
    if list(values) != sorted(set(values)):
        raise PydanticCustomError("ascending", "ascending, each once", {"write": sorted(set(values))})
    return values


Ascending = AfterValidator(_ascending)
# A file or folder of this machine, where ~ is somebody's home as in a shell.
Place = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]


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


# What is measured at a value twice counts twice in whatever is taken over rows.
Counts = Annotated[list[Count], Field(min_length=1, max_length=64), once()]
Shares = Annotated[list[Share], Field(max_length=16), once()]


def plain_of(value: Any) -> Any:
    """A section, or a list of them, as YAML would have it; anything else as it is."""
    if isinstance(value, list):
        return [plain_of(item) for item in value]
    return value.plain() if isinstance(value, Section) else value


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _words_mean_what_their_keys_take(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        takes = {
            key: field.annotation for name, field in cls.model_fields.items() for key in (name, field.alias)
        }
        return {key: read_words(value, takes.get(key)) for key, value in given.items()}

    def plain(self, without: Collection[str] = ()) -> dict[str, Any]:
        """The section as plain dicts, lists and scalars under the names that config.yaml uses.

        Snakemake compares params by their repr, so params are made of these and never of models.
        """
        full = self.model_dump(mode="json", by_alias=True)
        return {key: value for key, value in full.items() if key not in without}


def within_memory(where: str, most: int, **numbers: int) -> None:
    """Refuse, by a `ConfigError`, numbers of a section that are too large together, each within its bounds as it is."""
    if (product := math.prod(numbers.values())) > most:
        given = ", ".join(f"{key}: {value}" for key, value in numbers.items())
        largest = max(numbers, key=lambda key: numbers[key])
        raise ConfigError(
            f"config: {where} has {given}, {product:,} numbers to hold at once. Accepted: at most {most:,}.\n"
            f"  Write: {largest}: {max(1, most * numbers[largest] // product)}   (or less)"
        )


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

    start: Theta = setting(..., "First value.")
    stop: Theta = setting(..., "Last value, included.")
    count: int = setting(
        ..., "Number of values. The cost of a sweep hardly grows with it; its tables do.", ge=1, le=10_000
    )


def losses(targets: Section) -> dict[str, tuple[float, ...]]:
    """Loss -> how much of it thresholds are chosen for."""
    return {loss: tuple(found) for loss, found in targets.plain().items()}
