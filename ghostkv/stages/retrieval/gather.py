"""All answers, accuracy by cell, and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.stages.retrieval.tables import (
    ANSWER_SCHEMA,
    CELL_SCHEMA,
    SUMMARY_SCHEMA,
    cells,
    frame,
    summarise,
)


def gather(params: Mapping[str, Any], paths: Sequence[str], outputs: Mapping[str, str]) -> None:
    """Join all jobs, and derive cells and summary.

    Parameters
    ----------
    params : mapping
        Config section `retrieval`.
    paths : sequence of str
        Answers, one file a job.
    outputs : mapping
        Paths of `answers`, `cells`, `summary`.
    """
    metadata = read_metadata(paths[0])
    answers = pl.concat([read_table(path) for path in paths])
    write_table(answers, outputs["answers"], ANSWER_SCHEMA, metadata)
    for name, rows, schema in (
        ("cells", cells(answers, params["measurable"]), CELL_SCHEMA),
        ("summary", summarise(answers, params["measurable"]), SUMMARY_SCHEMA),
    ):
        write_table(frame(rows, schema), outputs[name], schema, metadata)
