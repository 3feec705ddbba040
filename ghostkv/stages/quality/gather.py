"""Quality, gathered: all texts joined, with intervals and peers at equal bytes.

Apart from the decoding, so that another interval decodes nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.files.provenance import metadata
from ghostkv.stages.quality.schemas import TEXT_TABLES
from ghostkv.stages.quality.summary_schemas import SUMMARY_TABLES
from ghostkv.stages.quality.tables import MeasuredBlocks, compare_at_equal_bytes, summarise

if TYPE_CHECKING:
    from ghostkv.stages.quality.jobs import GatherQuality


def gather(job: GatherQuality, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all texts, and derive summary and comparison at equal bytes.

    Parameters
    ----------
    inputs : mapping
        Files of each table of a text, one a text.
    outputs : mapping
        Those tables joined, `summary` and `equal_bytes`.
    """
    about = read_metadata(inputs["positions"][0]) | metadata(job.code)
    about.pop("text", None)
    joined = {name: pl.concat([read_table(path) for path in inputs[name]]) for name in TEXT_TABLES}
    measured = MeasuredBlocks.read(joined["positions"], job.block, job.replicates, job.seed)
    summary = summarise(joined["positions"], joined["runs"], measured)
    # A policy may be quoted for one thing only: the last named wins.
    roles = {label: role for role, label in job.headline.items() if role != "peer"}
    quoted = pl.col("policy").replace_strict(roles, default=None, return_dtype=pl.String).alias("role")
    joined["equal_bytes"] = compare_at_equal_bytes(summary, measured).with_columns(quoted)
    joined["summary"] = summary.with_columns(quoted)
    for name, schema in (TEXT_TABLES | SUMMARY_TABLES).items():
        write_table(joined[name], outputs[name], schema, about)
