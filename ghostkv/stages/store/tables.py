"""Tables of the stage `store`."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl
import pyarrow as pa

from ghostkv.files import provenance
from ghostkv.files.io import write_table


def write_rows(rows: Iterable[dict], path: str, schema: pa.Schema, code: str) -> None:
    """Write a table of the schema from rows as dicts."""
    table = pl.DataFrame(list(rows), infer_schema_length=None)
    write_table(table, path, schema, provenance.metadata(code))
