"""All answers, accuracy by cell, and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ghostkv.files.io import read_metadata, read_table
from ghostkv.files.tables import concatenate, write_rows
from ghostkv.stages.retrieval.tables import (
    CELL_SCHEMA,
    SUMMARY_SCHEMA,
    cells,
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
    concatenate(paths, outputs["answers"], metadata)
    answers = read_table(outputs["answers"])
    write_rows(cells(answers, params["measurable"]), outputs["cells"], CELL_SCHEMA, metadata)
    write_rows(summarise(answers, params["measurable"]), outputs["summary"], SUMMARY_SCHEMA, metadata)
