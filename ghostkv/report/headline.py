"""`headline.json`: the numbers that machines read, each with the query that gives it again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from ghostkv.files.errors import TableError
from ghostkv.report.document import Chapter, HeadlineFigure
from ghostkv.report.results import Results


@dataclass(frozen=True)
class HeadlineValue:
    """A headline figure of this run, and where it comes from."""

    name: str
    unit: str
    value: float | None  # None where no row answers
    n: int
    path: str  # the Parquet file; a pattern for many
    query: str  # SQL over it, called `self`

    @property
    def shown(self) -> str:
        """The value as `headline.json` writes it."""
        return json.dumps(self.value)

    def plain(self) -> dict:
        """The entry of `headline.json`."""
        source = f"{self.path}: {self.query}"
        return {"value": self.value, "unit": self.unit, "n": self.n, "source": source}


def measure(results: Results, chapters: Iterable[Chapter]) -> dict[str, HeadlineValue]:
    """Every headline figure of the chapters, by the name that its chapter gives it.

    A figure whose table the pipeline legitimately lacks is left out, and so is one that bears the model's name where tensors
    are imported. A figure that no row answers (a target that the config does not set) is there with the value None and n = 0.

    Raises
    ------
    TableError
        Two chapters define the same figure, or a figure's query does not fit its table.
    """
    figures: dict[str, HeadlineFigure] = {}
    for chapter in chapters:
        for figure in chapter.headline:
            if figure.name in figures:
                raise TableError(f"report: two chapters define the headline figure {figure.name}; rename one")
            figures[figure.name] = figure
    model = results.manifest().get("model")
    return {
        name: _measure(results, figure, name.format(model=model))
        for name, figure in figures.items()
        if results.has(figure.table) and (model or name == name.format(model=model))
    }


def _measure(results: Results, figure: HeadlineFigure, name: str) -> HeadlineValue:
    query = " ".join(figure.query.format(**results.headline, fer_bytes=results.fer_bytes).split())
    path = results.path(figure.table)
    frames = {"self": results.table(figure.table)}
    try:
        row = pl.SQLContext(frames=frames).execute(query, eager=True).row(0, named=True)
    except pl.exceptions.PolarsError as error:
        raise TableError(
            f"{path}: headline figure {name} cannot be computed ({error}). The table is from another "
            "version of the lab: delete it and rerun."
        ) from error
    # Nine digits: sums of many threads differ in the last ones, and the file should not.
    value = None if row["value"] is None else float(f"{row['value']:.9g}")
    return HeadlineValue(name, figure.unit, value, int(row["n"]), path, query)
