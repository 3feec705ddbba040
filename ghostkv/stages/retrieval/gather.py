"""All answers, accuracy by cell, and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.io import read_table
from ghostkv.files.provenance import inherited
from ghostkv.files.tables import join, write_rows
from ghostkv.stages.retrieval.schemas import ANSWER_SCHEMA
from ghostkv.stages.retrieval.summary_schemas import CELL_SCHEMA, SUMMARY_SCHEMA
from ghostkv.stages.retrieval.tables import cells, summarise

if TYPE_CHECKING:
    from ghostkv.stages.retrieval.jobs import GatherRetrieval


def gather(job: GatherRetrieval, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join `answers` of all tasks, and derive `cells` and `summary`."""
    metadata = inherited(inputs["answers"][0], job.code)
    join(inputs, outputs, {"answers": ANSWER_SCHEMA}, metadata)
    answers = read_table(outputs["answers"], ANSWER_SCHEMA)
    write_rows(cells(answers, job.measurable), outputs["cells"], CELL_SCHEMA, metadata)
    write_rows(summarise(answers, job.measurable), outputs["summary"], SUMMARY_SCHEMA, metadata)
