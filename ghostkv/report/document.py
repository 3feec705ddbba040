"""What a report is made of: chapters of prose, figures and tables. Nothing here knows a stage or a file
format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import altair as alt
import polars as pl

if TYPE_CHECKING:
    from ghostkv.report.results import Results


@dataclass(frozen=True)
class Prose:
    """Paragraphs and lists in Markdown. Of the first of a chapter the first paragraph stands in front."""

    text: str
    # Tables that were read for it beside those of the chapter's figures and tables.
    sources: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """A chart, the numbers it shows, and a caption that says what they mean and how sure they are."""

    name: str  # file stem under `figures/`; unique in the report
    title: str
    chart: alt.TopLevelMixin
    data: pl.DataFrame  # every number of the chart; written as CSV beside it
    caption: str
    # Tables (`stage.table`) that it was made from; where nothing is stated, those that its chapter needs.
    sources: Sequence[str] | None = None


@dataclass(frozen=True)
class Column:
    """How one column of a table is printed: header, and one of the formats of `ghostkv.report.numbers`."""

    label: str
    format: str = "text"
    # What it is of a group's rows, where the table is `aggregated`; else their mean of that name.
    of: pl.Expr | None = None


def aggregated(rows: pl.DataFrame, by: str | Sequence[str], columns: Mapping[str, Column]) -> pl.DataFrame:
    """The columns of a table that has a row a group, in order of appearance."""
    keys = [by] if isinstance(by, str) else list(by)
    found = {
        name: pl.col(name).cast(pl.Float64).mean() if column.of is None else column.of
        for name, column in columns.items()
        if name not in keys
    }
    return rows.group_by(keys, maintain_order=True).agg(**found)


@dataclass(frozen=True)
class Table:
    """A table of results: the columns of `data` that `columns` names, in that order. Else as `Figure`."""

    name: str
    caption: str
    data: pl.DataFrame
    columns: dict[str, Column]
    sources: Sequence[str] | None = None


Block = Prose | Figure | Table


@dataclass(frozen=True)
class HeadlineFigure:
    """One number of `headline.json`, computed by the query that is also its stated source."""

    name: str  # `stage.figure`; with `{model}.` before it where figures of runs of several models are laid together
    unit: str
    table: str  # `stage.table`, as in `results/<stage>/<table>.parquet`
    # SQL over the table, called `self`, with columns `value` and `n`. `{codec}`, `{bytes}` and `{rule}` stand for
    # the headline design. It may have columns `texts`, `low` and `high` too: how many texts stand behind the value, and its
    # 95 % interval over them; and `deviation` or `log_deviation`, between them.
    query: str
    # Where it has none: the table and the query with columns `text` and `value` that these are made of.
    by_text: tuple[str, str] | None = None


def figures(
    table: str,
    rows: str,
    values: Mapping[str, tuple[str, str]],
    n: str = "count(*)",
    by_text: str | None = None,
) -> tuple[HeadlineFigure, ...]:
    """Headline figures that are aggregates of the same rows of one table.

    Parameters
    ----------
    rows : str
        What follows FROM in their queries: `self WHERE ...`.
    values : mapping of str to tuple of str and str
        By name of the figure, its unit and the SQL of its value.
    n : str
        SQL of what was counted.
    by_text : str, optional
        Of means over texts: the table with a column `text`, of whose `rows` of each text the same value is taken.
    """
    return tuple(
        HeadlineFigure(
            name,
            unit,
            table,
            f"SELECT {value} AS value, {n} AS n FROM {rows}",
            by_text and (by_text, f"SELECT text, {value} AS value FROM {rows} GROUP BY text ORDER BY text"),
        )
        for name, (unit, value) in values.items()
    )


@dataclass(frozen=True)
class Chapter:
    """One chapter of the report."""

    name: str  # the stage's name, or the question that the chapter answers; anchor of the page
    title: str
    build: Callable[[Results], Sequence[Block]]
    # Tables (`stage.table`) without which the chapter does not exist. They lack only where the pipeline has no such
    # stage, as for imported tensors; the report then names the chapter as left out, and why.
    needs: Sequence[str] = ()
    headline: Sequence[HeadlineFigure] = field(default=())
    # Names of the figures and tables that stand in front of "more"; where none is there, the first of either.
    front: Sequence[str] | None = None
    # Headline figures of other chapters that this one states; their queries are printed here as well.
    quotes: Sequence[str] = ()
