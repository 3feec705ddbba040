"""Rows to Arrow tables and Parquet: as dicts, as blocks of columns, or file after file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ghostkv.files.io import ParquetAppender, read_metadata, write_table
from ghostkv.files.seals import SealedParquet, damaged


class Tables:
    """Rows of several tables as they come, and their files."""

    def __init__(self, schemas: Mapping[str, pa.Schema]) -> None:
        self.schemas = schemas
        self._parts: dict[str, list[_Part]] = {name: [] for name in schemas}

    def add(self, table: str, keys: Mapping, columns: Mapping[str, np.ndarray]) -> None:
        """Append a block: scalars of `keys` are repeated, arrays of `columns` are flattened; without any it is one row.

        NaN is null, as is what the block lacks (no values captured).
        """
        flat = {name: np.ravel(np.asarray(values)) for name, values in columns.items()}
        rows = len(next(iter(flat.values()))) if flat else 1
        self._parts[table].append((rows, dict(keys) | flat))

    def add_rows(self, table: str, rows: Iterable[Mapping]) -> None:
        """Append rows; they are looked at when the table is made. What a row lacks is null, as in `table_of`."""
        self._parts[table].append(list(rows))

    def table(self, name: str) -> pa.Table:
        """All rows of one table."""
        return pa.table([self._column(name, field) for field in self.schemas[name]], self.schemas[name])

    def write(self, outputs: Mapping[str, str], metadata: Mapping[str, str]) -> None:
        """Write each table that has a path, those without rows too."""
        for name, path in outputs.items():
            write_table(self.table(name), path, self.schemas[name], metadata)

    def _column(self, name: str, field: pa.Field) -> pa.Array:
        parts = [_array(part, field) for part in self._parts[name]]
        return pa.concat_arrays(parts) if parts else pa.array([], field.type)


# A number of rows and their columns, arrays or one value for all; or rows.
_Part = tuple[int, dict[str, Any]] | list[Mapping]


def _array(part: _Part, field: pa.Field) -> pa.Array:
    if isinstance(part, list):
        return pa.array([row.get(field.name) for row in part], field.type)
    rows, columns = part
    value = columns.get(field.name)
    if value is None:
        return pa.nulls(rows, field.type)
    if pa.types.is_string(field.type):
        return (
            pa.repeat(pa.scalar(value, field.type), rows)
            if isinstance(value, str)
            else pa.array(value, field.type)
        )
    values = np.broadcast_to(value, rows)
    unknown = np.isnan(values)
    return pa.array(
        np.where(unknown, 0, values).astype(field.type.to_pandas_dtype()), field.type, mask=unknown
    )


def table_of(rows: Iterable[Mapping], schema: pa.Schema) -> pa.Table:
    """Rows as a table of the schema; what a row lacks is null, what it has beyond the schema is left out."""
    rows = list(rows)
    return pa.table([_array(rows, field) for field in schema], schema)


def write_rows(rows: Iterable[Mapping], path: str, schema: pa.Schema, metadata: Mapping[str, str]) -> None:
    """Write a single table from rows, as `table_of` makes it."""
    write_table(table_of(rows, schema), path, schema, metadata)


def concatenate(files: Sequence[str], output: str, schema: pa.Schema, metadata: Mapping[str, str]) -> None:
    """Join the files of one table, a row group each, without holding them together.

    Raises TableError where one of them is damaged, is not of the schema, or was made from another model than the first.
    """
    with ParquetAppender(output, schema, metadata) as appender:
        weights = None
        for file in files:
            opened = SealedParquet(file, schema)
            found = opened.metadata.get("weight_sha256")
            if weights and found and found != weights:
                raise damaged(file, f"it was made from weights {found}, and {files[0]} from {weights}")
            weights = weights or found
            table = opened.table()
            appender.append({name: _whole(table[name]) for name in table.column_names})


def join(
    inputs: Mapping[str, Sequence[str]],
    outputs: Mapping[str, str],
    schemas: Mapping[str, pa.Schema],
    about: Mapping[str, str] | None = None,
) -> Mapping[str, str]:
    """Join the files of each table. Says of them what `about` says, or else their first file; returns that of the first."""
    found = {name: about or read_metadata(files[0]) for name, files in inputs.items()}
    for name, files in inputs.items():
        concatenate(files, outputs[name], schemas[name], found[name])
    return next(iter(found.values()))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
