"""Quality, gathered: all texts joined, with intervals and peers at equal bytes.

Apart from the decoding, so that another interval decodes nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.files.tables import concatenate
from ghostkv.stages.quality.schemas import EQUAL_BYTES_SCHEMA, SUMMARY_SCHEMA
from ghostkv.stages.quality.tables import Measured, compare_at_equal_bytes, summarise


def gather(
    tables: Mapping[str, Sequence[str]], params: Mapping[str, Any], outputs: Mapping[str, str]
) -> None:
    """Join all texts, and derive summary and comparison at equal bytes.

    Parameters
    ----------
    tables : mapping
        Files of each table of a text, one a text.
    params : mapping
        `block`, `replicates`, `seed`, `headline`.
    outputs : mapping
        Those tables joined, `summary` and `equal_bytes`.
    """
    metadata = read_metadata(tables["positions"][0])
    metadata.pop("text", None)
    for name, files in tables.items():
        concatenate(files, outputs[name], metadata)
    positions, runs = read_table(outputs["positions"]), read_table(outputs["runs"])
    measured = Measured.read(positions, params["block"], params["replicates"], params["seed"])
    summary = summarise(positions, runs, measured)
    # A policy may be quoted for one thing only: the last named wins.
    roles = {label: role for role, label in params["headline"].items() if role != "peer"}
    quoted = pl.col("policy").replace_strict(roles, default=None, return_dtype=pl.String).alias("role")
    summary = summary.with_columns(quoted)
    write_table(summary, outputs["summary"], SUMMARY_SCHEMA, metadata)
    equal = compare_at_equal_bytes(summary, measured).with_columns(quoted)
    write_table(equal, outputs["equal_bytes"], EQUAL_BYTES_SCHEMA, metadata)
