"""All answers, accuracy by cell, and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from ghostkv.files.io import read_table, write_table
from ghostkv.files.provenance import inherited
from ghostkv.files.tables import table_of
from ghostkv.stages.retrieval.schemas import ANSWER_SCHEMA
from ghostkv.stages.retrieval.summary_schemas import CELL_SCHEMA, SUMMARY_SCHEMA
from ghostkv.stages.retrieval.tables import cells, summarise

if TYPE_CHECKING:
    from ghostkv.stages.retrieval.jobs import GatherRetrieval


def gather(job: GatherRetrieval, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join `answers` of all tasks, and derive `cells` and `summary`."""
    metadata = inherited(inputs["answers"][0], job.code)
    answers = pl.concat([read_table(path) for path in inputs["answers"]])
    write_table(answers, outputs["answers"], ANSWER_SCHEMA, metadata)
    for name, rows, schema in (
        ("cells", cells(answers, job.measurable), CELL_SCHEMA),
        ("summary", summarise(answers, job.measurable), SUMMARY_SCHEMA),
    ):
        write_table(table_of(rows, schema), outputs[name], schema, metadata)
