"""All layers of the hierarchy in one table each, and fits of its reads over the context's length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.stages.hierarchy.tables import FIT_SCHEMA, HEAD_SCHEMA, SCHEMAS, fits


def gather(tables: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers and fit reads and bytes against the context length.

    Parameters
    ----------
    tables : mapping
        Files of `heads` and `checks`, one a layer.
    outputs : mapping
        Paths of `heads`, `checks` and `fits`.
    """
    metadata = read_metadata(tables["heads"][0])
    heads, checks = (pl.concat([read_table(path) for path in tables[name]]) for name in SCHEMAS)
    write_table(heads, outputs["heads"], HEAD_SCHEMA, metadata)
    write_table(checks, outputs["checks"], SCHEMAS["checks"], metadata)
    write_table(fits(heads), outputs["fits"], FIT_SCHEMA, metadata)
