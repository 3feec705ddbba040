"""`headline.json`: the numbers that machines read, each with the query that gives it again."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from ghostkv.errors import TableError
from ghostkv.report.document import HeadlineFigure, Section
from ghostkv.report.results import Results


def headline(results: Results, sections: Iterable[Section]) -> dict[str, dict]:
    """Every headline figure of the sections, by name.

    A figure whose table the pipeline legitimately lacks is left out. A figure that no row answers (a target
    that the config does not set) is there with the value null and n = 0.

    Returns
    -------
    dict of str to dict
        `stage.figure` to `value`, `unit`, `n` and `source`.

    Raises
    ------
    TableError
        Two sections define the same figure, or a figure's query does not fit its table.
    """
    found: dict[str, dict] = {}
    for section in sections:
        for figure in section.headline:
            if figure.name in found:
                raise TableError(f"report: two sections define the headline figure {figure.name}; rename one")
            if results.has(figure.table):
                found[figure.name] = _measure(results, figure)
    return found


def _measure(results: Results, figure: HeadlineFigure) -> dict:
    # Nine digits: sums of many threads differ in the last ones, and the file should not.
    query = " ".join(figure.query.format(**results.headline).split())
    try:
        row = (
            pl.SQLContext(frames={"self": results.table(figure.table)})
            .execute(query, eager=True)
            .row(0, named=True)
        )
    except pl.exceptions.PolarsError as error:
        raise TableError(
            f"{results.path(figure.table)}: headline figure {figure.name} cannot be computed ({error}). The "
            "table is from another version of the lab: delete it and rerun."
        ) from error
    value = row["value"]
    return {
        "value": None if value is None else float(f"{value:.9g}"),
        "unit": figure.unit,
        "n": int(row["n"]),
        "source": f"{results.path(figure.table)}: {query}",
    }
