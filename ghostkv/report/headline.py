"""`headline.json`: the numbers that machines read, each with the query that gives it again, and how sure it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ghostkv.elimination.intervals import over_documents
from ghostkv.files.errors import TableError
from ghostkv.report.document import Chapter, HeadlineFigure
from ghostkv.report.results import Results


@dataclass(frozen=True)
class Sureness:
    """What the texts behind a figure say of how sure it is; None where it is not known."""

    texts: int | None = None  # that stand behind it
    low: float | None = None  # 95 % interval over them
    high: float | None = None
    deviation: float | None = None  # standard deviation between them
    log_deviation: float | None = None  # of the logarithm, where the figure is a ratio of two methods
    source: str | None = (
        None  # file and query of the value of each text, where they are not of the figure's own row
    )

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> Sureness:
        """As the columns of a figure's own query say it."""
        names = ("low", "high", "deviation", "log_deviation")
        texts = row.get("texts")
        return cls(None if texts is None else int(texts), *(_rounded(row.get(name)) for name in names))

    @classmethod
    def of_texts(cls, values: list[float], source: str) -> Sureness:
        """Of a mean over texts, from the value of each: Student's interval."""
        if not values:
            return cls(0, source=source)
        _, low, high = over_documents(values)
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(len(values), _rounded(low), _rounded(high), _rounded(deviation), source=source)


@dataclass(frozen=True)
class HeadlineValue:
    """A headline figure of this run, and where it comes from."""

    name: str
    unit: str
    value: float | str | None  # None where no row answers
    n: int
    path: str  # the Parquet file; a pattern for many
    query: str  # SQL over it, called `self`
    sure: Sureness = Sureness()

    @property
    def shown(self) -> str:
        """The value as `headline.json` writes it."""
        return json.dumps(self.value)

    @property
    def counted(self) -> str:
        """What it is taken over, and its interval."""
        sure, said = self.sure, f"n = {self.n}"
        if sure.texts is not None:
            said += f"; texts = {sure.texts}"
        if sure.low is not None:
            said += f"; 95 % interval over them {sure.low:.4g} to {sure.high:.4g}"
        return said

    def plain(self) -> dict:
        """The entry of `headline.json`."""
        source, sure = f"{self.path}: {self.query}", self.sure
        return {
            "value": self.value, "unit": self.unit, "n": self.n, "texts": sure.texts, "low": sure.low, "high": sure.high,
            "source": source, "by_text": sure.source,
        }  # fmt: skip


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
    found, path, query = _asked(results, name, figure.table, figure.query)
    row = found.row(0, named=True)
    sure = Sureness.of_row(row)
    if figure.by_text:
        each, texts_path, texts_query = _asked(results, name, *figure.by_text)
        # In no order of groups, which differs from run to run.
        values = sorted(_rounded(value) for value in each["value"].drop_nulls())
        sure = Sureness.of_texts(values, f"{texts_path}: {texts_query}")
    return HeadlineValue(name, figure.unit, _rounded(row["value"]), int(row["n"]), path, query, sure)


def _asked(results: Results, name: str, table: str, query: str) -> tuple[pl.DataFrame, str, str]:
    """What a query finds in a table; the table's file, and the query as it was asked."""
    query = " ".join(query.format(**results.headline, fer_bytes=results.fer_bytes).split())
    path = results.path(table)
    try:
        found = pl.SQLContext(frames={"self": results.table(table)}).execute(query, eager=True)
    except pl.exceptions.PolarsError as error:
        raise TableError(
            f"{path}: headline figure {name} cannot be computed ({error}). The table is from another "
            "version of the lab: delete it and rerun."
        ) from error
    return found, path, query


def _rounded(value: float | str | None) -> float | str | None:
    # Nine digits: sums of many threads differ in the last ones, and the file should not.
    return value if value is None or isinstance(value, str) else float(f"{value:.9g}")
