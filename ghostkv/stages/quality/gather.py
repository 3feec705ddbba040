"""Quality, gathered: all texts joined, with intervals and peers at equal bytes.

Apart from the decoding, so that another interval decodes nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.stages.quality.schemas import EQUAL_BYTES_SCHEMA, SUMMARY_SCHEMA, TEXT_TABLES
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
    joined = {name: pl.concat([read_table(path) for path in tables[name]]) for name in TEXT_TABLES}
    measured = Measured.read(joined["positions"], params["block"], params["replicates"], params["seed"])
    summary = summarise(joined["positions"], joined["runs"], measured)
    for name, schema in TEXT_TABLES.items():
        write_table(joined[name], outputs[name], schema, metadata)
    # A policy may be quoted for one thing only: the last named wins.
    roles = {label: role for role, label in params["headline"].items() if role != "peer"}
    quoted = pl.col("policy").replace_strict(roles, default=None, return_dtype=pl.String).alias("role")
    summary = summary.with_columns(quoted)
    write_table(summary, outputs["summary"], SUMMARY_SCHEMA, metadata)
    equal = compare_at_equal_bytes(summary, measured).with_columns(quoted)
    write_table(equal, outputs["equal_bytes"], EQUAL_BYTES_SCHEMA, metadata)
