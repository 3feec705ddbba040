"""Quality, gathered: all texts joined, with intervals and peers at equal bytes.

Apart from the decoding, so that another interval decodes nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from ghostkv.files.io import read_table, write_table
from ghostkv.files.provenance import inherited
from ghostkv.files.tables import join
from ghostkv.stages.quality.schemas import TEXT_TABLES
from ghostkv.stages.quality.summary_schemas import SUMMARY_TABLES
from ghostkv.stages.quality.tables import MeasuredBlocks, compare_at_equal_bytes, summarise

if TYPE_CHECKING:
    from ghostkv.stages.quality.jobs import GatherQuality


def gather(job: GatherQuality, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all texts, and derive summary and comparison at equal bytes."""
    about = inherited(inputs["positions"][0], job.code)
    join(inputs, outputs, TEXT_TABLES, about)
    positions, runs = (read_table(outputs[name], TEXT_TABLES[name]) for name in ("positions", "runs"))
    measured = MeasuredBlocks.read(positions, job.block, job.replicates, job.seed)
    summary = summarise(positions, runs, measured)
    # A policy may be quoted for one thing only: the last named wins.
    roles = {label: role for role, label in job.headline.items()}
    quoted = pl.col("policy").replace_strict(roles, default=None, return_dtype=pl.String).alias("role")
    derived = {"summary": summary, "equal_bytes": compare_at_equal_bytes(summary, measured)}
    for name, schema in SUMMARY_TABLES.items():
        write_table(derived[name].with_columns(quoted), outputs[name], schema, about)
