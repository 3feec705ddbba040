"""Rows to Arrow tables and Parquet: as dicts, as blocks of columns, or file after file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ghostkv.files.io import ParquetAppender, write_table


def table_of(rows: Sequence[Mapping], schema: pa.Schema) -> pa.Table:
    """Rows as a table of the schema; what a row lacks is null, what it has beyond the schema is left out."""
    columns = {field.name: [row.get(field.name) for row in rows] for field in schema}
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


class LayerTables:
    """Rows of one layer's tables as they come; a block is a few keys and columns of equal shape."""

    def __init__(self, schemas: Mapping[str, pa.Schema]) -> None:
        self.schemas = schemas
        self.blocks: dict[str, list[tuple[int, dict]]] = {table: [] for table in schemas}

    def add(self, table: str, keys: Mapping, columns: Mapping[str, np.ndarray]) -> None:
        """Append a block: scalars of `keys` are repeated, arrays of `columns` are flattened."""
        flat = {name: np.ravel(np.asarray(values)) for name, values in columns.items()}
        self.blocks[table].append((len(next(iter(flat.values()))), dict(keys) | flat))

    def write(self, outputs: Mapping[str, str], metadata: Mapping[str, str]) -> None:
        """Write the tables, those without rows too; a metric that a block lacks (no values captured) and NaN are null."""
        for table, schema in self.schemas.items():
            rows = schema.empty_table()
            if self.blocks[table]:
                rows = pa.Table.from_arrays([self._column(table, field) for field in schema], schema=schema)
            write_table(rows, outputs[table], schema, metadata)

    def _column(self, table: str, field: pa.Field) -> pa.Array:
        if pa.types.is_string(field.type):
            return pa.concat_arrays([_strings(block[field.name], rows) for rows, block in self.blocks[table]])
        values = np.concatenate(
            [np.broadcast_to(block.get(field.name, np.nan), rows) for rows, block in self.blocks[table]]
        )
        return pa.array(values.astype(field.type.to_pandas_dtype()), mask=np.isnan(values))


def _strings(value: str | np.ndarray, rows: int) -> pa.Array:
    if isinstance(value, str):
        return pa.repeat(pa.scalar(value, pa.string()), rows)
    return pa.array(value, pa.string())


def concatenate(files: Sequence[str], output: str, metadata: Mapping[str, str]) -> None:
    """Join the layers' files of one table, a row group each, without holding them together."""
    with ParquetAppender(output, pq.read_schema(files[0]).remove_metadata(), metadata) as appender:
        for file in files:
            appender.append(dict(zip(*_columns(pq.read_table(file)), strict=True)))


def _columns(table: pa.Table) -> tuple[list[str], list[pa.Array]]:
    return table.column_names, [pa.concat_arrays(column.chunks) for column in table.columns]
