"""A hot buffer in the unit of serving engines: rows that a request misses under LRU; and reading them while others are attended."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ghostkv.report.document import Block, Chapter, Prose, figures
from ghostkv.report.results import Results
from ghostkv.report.sections.buffer.misses import (
    MULTIPLES,
    layers_figure,
    misses_figure,
    misses_reading,
    misses_table,
    request,
)
from ghostkv.report.sections.buffer.overlap import limits_table, overlap_reading, times_figure


def build(results: Results) -> Sequence[Block]:
    """Misses by buffer and by layer, and the times of a step that reads them."""

    # Asked for block by block: what is read before a block is printed as its source.
    def buffers() -> pl.DataFrame:
        return results.table("decode.buffers").with_columns(request())

    def overlap() -> pl.DataFrame:
        return results.table("decode.overlap")

    blocks: list[Block] = [
        Prose(misses_reading(buffers())),
        misses_figure(buffers()),
        misses_table(buffers()),
        layers_figure(buffers()),
    ]
    blocks.append(Prose(overlap_reading(overlap())))
    return [*blocks, times_figure(overlap()), limits_table(overlap())] if overlap().height else blocks


_SMALLEST = "self WHERE source = 'trace' AND asked IN (SELECT min(asked) FROM self WHERE source = 'trace')"
HEADLINE = (
    *(
        figure
        for multiple in MULTIPLES
        for figure in figures(
            "decode.buffers",
            f"{_SMALLEST} AND buffer = {multiple} * asked",
            {
                f"decode.buffer_miss_rate_{multiple}x": (
                    f"rows missed / rows asked for, LRU, smallest requests, buffer of {multiple} of them",
                    "sum(misses) / nullif(sum(rows), 0)",
                )
            },
        )
    ),
    *figures(
        "decode.overlap",
        "self",
        {
            "decode.overlap_error": (
                "largest relative difference of a head's output from float64",
                "max(error)",
            )
        },
    ),
    *figures(
        "decode.overlap",
        "self WHERE source = 'device' AND misses > 0",
        {
            "decode.overlap_gain": (
                "time of a step that reads first / of one that attends meanwhile, past the page cache, median",
                "median(apart_seconds / overlapped_seconds)",
            )
        },
    ),
)
CHAPTER = Chapter(
    "buffer",
    "A hot buffer: what a request misses, and reading it meanwhile",
    build,
    needs=("decode.buffers", "decode.overlap"),
    headline=HEADLINE,
)
