"""What so few texts could not have shown."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Prose, Table
from ghostkv.report.results import Results


def build(results: Results) -> Sequence[Block]:
    """How intervals are made, and the least difference that each figure's texts would have shown."""
    data = results.power
    said = (
        "Queries, heads and layers of one text resemble one another, so a text is what is counted: an interval is Student's over "
        "the means of the texts, or a bootstrap of them. "
    )
    if data.is_empty():
        return [
            Prose(
                said
                + "This run has one held-out text, or none, behind each figure, so no interval and no power is known."
            )
        ]
    return [
        Prose(
            said + "A difference below *least seen* may be there all the same: with these texts a paired test at level 5 % would have "
            "missed it more than one time in five. For a comparison of two methods on the same texts the deviation is that of their "
            "differences, which is smaller where a hard text is hard for both. For a figure alone it is that of the figure, and "
            "*least seen* is how far a method with the same spread would have to be away. *Of all*: the same where the level is "
            "shared by all rows (Bonferroni)."
        ),
        _table(results, "power", "What these texts could not have shown", data.filter(scale="linear"), "number"),
        *(
            [_table(results, "power_ratios", "The same of ratios of two methods, as factors", ratios, "factor")]
            if (ratios := data.filter(scale="log")).height
            else []
        ),
    ]  # fmt: skip


# Tables that the claims of the README with a spread between texts come from.
_BEHIND = ("frontier.points", "certificates.certificates", "quality.summary", "quality.equal_bytes")


def _table(results: Results, name: str, caption: str, data: pl.DataFrame, kind: str) -> Table:
    return Table(
        name,
        f"{caption}, by claim.",
        data,
        {
            "figure": Column("Figure"),
            "value": Column("Value", kind),
            "texts": Column("Texts", "integer"),
            "deviation": Column("Deviation", "number"),
            "least_seen": Column("Least seen", kind),
            "least_seen_of_all": Column("of all", kind),
        },
        sources=[table for table in _BEHIND if results.has(table)],
    )


CHAPTER = Chapter("power", "What so few texts cannot show", build, front=("power",))
