"""What all config sections share."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


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


class GridEntry(Section):
    """Evenly spaced values."""

    start: float = setting(..., "First value.")
    stop: float = setting(..., "Last value, included.")
    count: PositiveInt = setting(..., "Number of values. The cost of a sweep does not grow with it.")
