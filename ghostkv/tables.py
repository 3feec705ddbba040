"""Rows as dicts to an Arrow table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa


def table_of(rows: Sequence[Mapping], schema: pa.Schema) -> pa.Table:
    """Rows as a table of the schema; what a row lacks is null, what it has beyond the schema is left out."""
    columns = {field.name: [row.get(field.name) for row in rows] for field in schema}
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
