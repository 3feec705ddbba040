"""Stage `benchmark`: what capture and sweep cost."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Column, Prose, Table, aggregated, figures
from ghostkv.report.results import Results

_IDENTICAL = "share of comparisons with identical counts"
_AT_MOST, _AT_FEWEST = (
    f"median(CASE WHEN thetas = (SELECT {end}(thetas) FROM self) THEN sweep_seconds END)"
    for end in ("max", "min")
)


def build(results: Results) -> Sequence[Block]:
    """Capture where a model was captured, then the sweep."""
    blocks: list[Block] = [
        Prose(
            "Seconds hold for the machine that ran this and vary by some per cent; ratios were measured side "
            "by side and carry over."
        )
    ]
    if results.has("benchmark.capture_overhead"):
        blocks.append(_overhead(results))
    return [*blocks, _speed(results)]


def _overhead(results: Results) -> Table:
    return Table(
        "capture_overhead",
        "Capture (forward pass, recording, proof, writing, reading back) beside a plain forward pass of the "
        "same text, in turns. The median ratio is the one to quote.",
        results.table("benchmark.capture_overhead"),
        {
            "pair": Column("Pair", "integer"),
            "tokens": Column("Tokens", "integer"),
            "threads": Column("Threads", "integer"),
            "plain_seconds": Column("Plain (s)", "number"),
            "capture_seconds": Column("Capture (s)", "number"),
            "ratio": Column("Ratio", "factor"),
        },
        sources=("benchmark.capture_overhead",),
    )


def _speed(results: Results) -> Table:
    columns = {
        "thetas": Column("Thetas", "integer"),
        "with_output_error": Column("with output error", "yes_no"),
        "pairs": Column("Pairs", "integer", pl.col("pairs").max()),
        "loop_seconds": Column("Loop (s)", "number", pl.col("loop_seconds").median()),
        "by_theta_seconds": Column("Loop over thetas (s)", "number", pl.col("by_theta_seconds").median()),
        "sweep_seconds": Column("Sweep (s)", "number", pl.col("sweep_seconds").median()),
        "ratio": Column("Loop / sweep", "factor", pl.col("ratio").median()),
        "by_theta_ratio": Column("Loop over thetas / sweep", "factor", pl.col("by_theta_ratio").median()),
        "identical_counts": Column(
            "Counts identical", "yes_no", pl.col("identical_counts").all(ignore_nulls=False)
        ),
    }
    by = ["with_output_error", "thetas"]
    return Table(
        "sweep_speed",
        "The counting sweep beside two loops that give the same counts: over heads, queries and thetas one "
        "by one, and over thetas with whole arrays. Medians; pairs are (query, cold key). The loops are not "
        "run at many thetas, where their cost is known to grow with them; the sweep's should hardly grow.",
        aggregated(results.table("benchmark.sweep_speed"), by, columns).sort(by),
        columns,
        sources=("benchmark.sweep_speed",),
    )


CHAPTER = Chapter(
    "benchmark",
    "Benchmarks",
    build,
    front=("sweep_speed",),
    needs=("benchmark.sweep_speed",),
    headline=(
        *figures(
            "benchmark.sweep_speed",
            "self WHERE thetas = 19 AND NOT with_output_error",
            {"frontier.sweep_speedup": ("loop seconds / sweep seconds at 19 thetas", "median(ratio)")},
        ),
        *figures(
            "benchmark.sweep_speed",
            "self",
            {"frontier.sweep_identical_share": (_IDENTICAL, "avg(CAST(identical_counts AS DOUBLE))")},
            "count(identical_counts)",
        ),
        *figures(
            "benchmark.sweep_speed",
            "self WHERE NOT with_output_error",
            {
                "frontier.sweep_cost_growth": (
                    "median seconds at most thetas / at fewest",
                    f"{_AT_MOST} / {_AT_FEWEST}",
                )
            },
        ),
    ),
)
