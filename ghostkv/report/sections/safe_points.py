"""Stage `frontier`: which heads have a threshold that eliminates enough and loses little, on text not used to
find it."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Prose, Table, aggregated
from ghostkv.report.expressions import in_words
from ghostkv.report.numbers import percent
from ghostkv.report.results import ORACLE, Results
from ghostkv.report.sections.heads import verdicts
from ghostkv.report.summaries import among


def build(results: Results) -> Sequence[Block]:
    """The counts by codec, and the heads that come out worst; the map of all of them is a chapter before."""
    return [Prose(_reading(results)), _counts(results), _table(results)]


def _reading(results: Results) -> str:
    safe = results.frontier["safe"]
    return (
        "A head has a safe point if the threshold chosen for it on threshold texts eliminates at least "
        f"{percent(safe['elimination'], 0)} of its cold keys at a FER of at most {percent(safe['fer'], 0)} "
        f"on held-out texts. The threshold aims at {percent(safe['fer'] * safe['margin'])} rather than "
        f"{percent(safe['fer'], 0)}, to leave room for texts that differ."
    )


def _counts(results: Results) -> Table:
    columns = {
        "codec": Column("Codec"),
        "code_bytes": Column("Code bytes", "integer"),
        "heads": Column("Heads", "integer", pl.len()),
        "safe": Column("Safe", "integer", pl.col("safe").sum()),
        "safe_every_text": Column("on every text", "integer", pl.col("safe_every_text").sum()),
        "safe_hindsight": Column("with hindsight", "integer", pl.col("safe_hindsight").sum()),
        "elimination": Column("Elimination", "percent"),
        "fer": Column("FER", "percent"),
        "bytes_ratio": Column("Bytes ratio", "ratio"),
    }
    rows = results.table("frontier.safe_points").filter(results.is_compared, results.is_rule)
    data = aggregated(rows, ["codec", "code_bytes"], columns).sort(
        pl.col("codec") == ORACLE, "safe", "elimination", descending=[False, True, True]
    )
    return Table(
        "safe_counts",
        f"Heads with a safe point, by codec and record size, rule `{results.headline['rule']}`. Hindsight is "
        "what the best possible choice of thresholds would give; the difference to the safe heads is the "
        "price of choosing them beforehand. Elimination, FER and bytes ratio are means over the heads at the "
        f"chosen thresholds, safe or not. Every codec was swept in {among(results)}.",
        data.with_columns(in_words("codec")),
        columns,
    )


def _table(results: Results) -> Table:
    rows = results.job.table_rows
    data = verdicts(results).sort("safe", "safe_every_text", "elimination", "layer", "head")
    return Table(
        "safe_points",
        f"The {min(rows, data.height)} heads of {data.height} that come out worst: those without a safe "
        "point first, then those not safe on every text, then by elimination. With hindsight: what the best "
        f"theta would have eliminated. All heads are in {results.path('frontier.safe_points')}.",
        data.head(rows),
        {
            "layer": Column("Layer", "integer"),
            "head": Column("Head", "integer"),
            "theta": Column("Theta", "number"),
            "elimination": Column("Elimination", "percent"),
            "elimination_worst_text": Column("on its worst text", "percent"),
            "fer": Column("FER", "percent"),
            "fer_worst_text": Column("on its worst text", "percent"),
            "bytes_ratio": Column("Bytes ratio", "ratio"),
            "hindsight_elimination": Column("with hindsight", "percent"),
            "verdict": Column("Safe on"),
        },
    )


CHAPTER = Chapter(
    "safe_points", "Safe points", build, front=("safe_counts",), needs=("frontier.safe_points",)
)
