"""`headline.json`: the numbers that machines read, each with the query that gives it again."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import polars as pl

from ghostkv.files.errors import TableError
from ghostkv.report.document import HeadlineFigure, Section
from ghostkv.report.results import Results


@dataclass(frozen=True)
class Measured:
    """A headline figure of this run, and where it comes from.

    Attributes
    ----------
    name, unit : str
    value : float or None
        None where no row answers.
    n : int
    path : str
        The Parquet file; a pattern for many.
    query : str
        SQL over it, called `self`.
    """

    name: str
    unit: str
    value: float | None
    n: int
    path: str
    query: str

    @property
    def shown(self) -> str:
        """The value as `headline.json` writes it."""
        return json.dumps(self.value)

    def plain(self) -> dict:
        """The entry of `headline.json`."""
        source = f"{self.path}: {self.query}"
        return {"value": self.value, "unit": self.unit, "n": self.n, "source": source}


def headline(
    results: Results, sections: Iterable[Section], names: Collection[str] | None = None
) -> dict[str, dict]:
    """The entries of `headline.json`: `stage.figure` to `value`, `unit`, `n` and `source`; see `measure`."""
    return {name: figure.plain() for name, figure in measure(results, sections, names).items()}


def measure(
    results: Results, sections: Iterable[Section], names: Collection[str] | None = None
) -> dict[str, Measured]:
    """Every headline figure of the sections, by name; with `names` those alone.

    A figure whose table the pipeline legitimately lacks is left out. A figure that no row answers (a target
    that the config does not set) is there with the value None and n = 0.

    Raises
    ------
    TableError
        Two sections define the same figure, or a figure's query does not fit its table.
    """
    figures: dict[str, HeadlineFigure] = {}
    for section in sections:
        for figure in section.headline:
            if figure.name in figures:
                raise TableError(f"report: two sections define the headline figure {figure.name}; rename one")
            figures[figure.name] = figure
    return {
        name: _measure(results, figure)
        for name, figure in figures.items()
        if results.has(figure.table) and (names is None or name in names)
    }


def _measure(results: Results, figure: HeadlineFigure) -> Measured:
    query = " ".join(figure.query.format(**results.headline).split())
    path = results.path(figure.table)
    try:
        row = (
            pl.SQLContext(frames={"self": results.table(figure.table)})
            .execute(query, eager=True)
            .row(0, named=True)
        )
    except pl.exceptions.PolarsError as error:
        raise TableError(
            f"{path}: headline figure {figure.name} cannot be computed ({error}). The table is from another "
            "version of the lab: delete it and rerun."
        ) from error
    # Nine digits: sums of many threads differ in the last ones, and the file should not.
    value = None if row["value"] is None else float(f"{row['value']:.9g}")
    return Measured(figure.name, figure.unit, value, int(row["n"]), path, query)
