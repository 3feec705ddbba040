"""Which differences the texts of a run could not have shown: the least that a paired test finds four times in five."""

from __future__ import annotations

import math
from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from ghostkv.elimination.intervals import least_seen
from ghostkv.files.seals import MAY_BE_EMPTY
from ghostkv.files.tables import table_of
from ghostkv.report.claims import ROWS
from ghostkv.report.headline import HeadlineValue

POWER_SCHEMA = pa.schema(
    [
        ("figure", pa.string()),  # of headline.json
        ("unit", pa.string()),
        ("value", pa.float64()),
        ("texts", pa.int32()),
        (
            "deviation",
            pa.float64(),
        ),  # standard deviation between texts; of the logarithm, where `scale` is log
        ("scale", pa.string()),  # linear, or log: the figure is a ratio of two methods on the same texts
        # The least true difference from the value, or the least factor beside it, that a two-sided Student test over so
        # many texts finds with probability 80 %: at level 5 %, and at 5 % shared by all figures of the table (Bonferroni).
        ("least_seen", pa.float64()),
        ("least_seen_of_all", pa.float64()),
    ],
    metadata=MAY_BE_EMPTY,
)


def power_table(measured: Mapping[str, HeadlineValue]) -> pl.DataFrame:
    """Rows of `POWER_SCHEMA`: every claim of the README whose spread between texts is known."""
    claimed = [measured[name] for _, name, _ in ROWS if name in measured]
    known = [
        figure
        for figure in claimed
        if figure.value is not None
        and (figure.sure.texts or 0) > 1
        and (figure.sure.deviation is not None or figure.sure.log_deviation is not None)
    ]
    return pl.from_arrow(table_of([_row(figure, len(known)) for figure in known], POWER_SCHEMA))


def _row(figure: HeadlineValue, figures: int) -> dict:
    sure, log = figure.sure, figure.sure.log_deviation is not None
    deviation = sure.log_deviation if log else sure.deviation
    least = [least_seen(deviation, sure.texts, comparisons) for comparisons in (1, figures)]
    if log:
        least = [math.exp(one) for one in least]
    return {
        "figure": figure.name, "unit": figure.unit, "value": figure.value, "texts": sure.texts, "deviation": deviation,
        "scale": "log" if log else "linear", "least_seen": least[0], "least_seen_of_all": least[1],
    }  # fmt: skip
