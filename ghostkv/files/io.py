"""Files in and out: atomic, deterministic, no pickle.

Every output is written to a temporary name in its own folder and renamed when complete, so a killed job
leaves either the old file or none. Parquet is written by one writer with fixed settings, so the same rows
give the same bytes. Tables carry checksums that are verified when they are read (`ghostkv.files.seals`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ghostkv.files.errors import TableError
from ghostkv.files.seals import NAME, SealedParquet, name_of, seal_parquet

# Checksums of pages are for other readers of Parquet: those of `ghostkv.files.seals` cover more.
_PARQUET = {"store_schema": True, "write_page_checksum": True}
_COMPRESSED = {"compression": "zstd", "compression_level": 1}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    Yields
    ------
    Path
        Where to write. The name is unique to the process and hidden, so a leftover of a kill is never
        mistaken for an output.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.part"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(text: str, path: str | Path) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: Any, path: str | Path) -> None:
    """Write `value` as JSON with sorted keys and no NaN, atomically."""
    write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n", path)


def write_table(
    table: pa.Table | pl.DataFrame,
    path: str | Path,
    schema: pa.Schema | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a table as Parquet, atomically and with the same bytes for the same rows.

    Parameters
    ----------
    schema : pyarrow.Schema, optional
        The columns and types of the table; the columns are ordered and cast to it.
    metadata : mapping of str to str, optional
        Provenance stored in the file's schema.

    Raises
    ------
    TableError
        The table's columns are not those of the schema.
    """
    arrow = table.to_arrow() if isinstance(table, pl.DataFrame) else table
    if schema is not None:
        if set(arrow.column_names) != set(schema.names):
            extra, lacking = (
                sorted(set(arrow.column_names) - set(schema.names)),
                sorted(set(schema.names) - set(arrow.column_names)),
            )
            raise TableError(f"{path}: columns differ from the schema (extra {extra}, lacking {lacking})")
        arrow = arrow.select(schema.names).cast(schema)
    arrow = arrow.replace_schema_metadata(_stored(metadata, path))
    with atomic_path(path) as temporary:
        pq.write_table(arrow, temporary, **_PARQUET, **_COMPRESSED)
        seal_parquet(temporary)


def read_table(
    path: str | Path, schema: pa.Schema | None = None, columns: list[str] | None = None
) -> pl.DataFrame:
    """Read a Parquet table, or some of its columns; raises as `SealedParquet`."""
    return pl.from_arrow(SealedParquet(path, schema).table(columns))


def read_metadata(path: str | Path) -> dict[str, str]:
    """Provenance that `write_table` or `ParquetAppender` stored in a Parquet file."""
    return SealedParquet(path).metadata


class ParquetAppender:
    """Write a Parquet file one row group at a time; it appears under its name only when complete.

    Used as a context manager. Memory holds one row group, so a capture of 30 layers costs no more than a
    capture of one.

    Parameters
    ----------
    path : str or Path
    schema : pyarrow.Schema
    metadata : mapping of str to str, optional
    """

    def __init__(self, path: str | Path, schema: pa.Schema, metadata: Mapping[str, str] | None = None):
        self.path, self.schema = Path(path), schema.with_metadata(_stored(metadata, path))

    def __enter__(self) -> ParquetAppender:
        self._stack = ExitStack()
        self._temporary = self._stack.enter_context(atomic_path(self.path))
        self._stack.push(self._seal)
        # Vectors of noise hardly compress (14 % smaller, twice the time to read), and the least and greatest component of all
        # of them help no reader.
        vectors = [field.name for field in self.schema if pa.types.is_fixed_size_list(field.type)]
        scalars = [name for name in self.schema.names if name not in vectors]
        chosen = dict.fromkeys(scalars, "zstd") | {f"{name}.list.element": "none" for name in vectors}
        self._writer = self._stack.enter_context(
            pq.ParquetWriter(
                self._temporary,
                self.schema,
                use_dictionary=False,
                write_statistics=scalars,
                compression=chosen,
                compression_level=dict.fromkeys(scalars, 1),
                **_PARQUET,
            )
        )
        return self

    def append(self, columns: Mapping[str, Any]) -> None:
        """Append one row group; `columns` maps every schema name to a NumPy or Arrow array."""
        arrays = [
            value if isinstance(value, pa.Array) else pa.array(value, type=field.type)
            for field in self.schema
            for value in (columns[field.name],)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))

    def __exit__(self, kind, error, trace) -> None:
        self._stack.__exit__(kind, error, trace)

    def _seal(self, kind, error, trace) -> None:
        if kind is None:
            seal_parquet(self._temporary)


def fixed_list(rows: np.ndarray) -> pa.FixedSizeListArray:
    """A matrix of shape [rows, width] as an Arrow array of fixed-size lists, copied only where it must be."""
    rows = np.ascontiguousarray(rows)
    if rows.shape[1] == 0:
        raise TableError("a vector column needs a width of at least 1")
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def from_fixed_list(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The inverse of `fixed_list`: an array of shape [rows, width] in the stored dtype."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    width = array.type.list_size
    return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stable_seed(*parts: object) -> int:
    """A 64-bit seed that depends on the parts alone, not on loop order, process or platform."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def _stored(metadata: Mapping[str, str] | None, path: str | Path) -> dict[bytes, bytes]:
    known = {**(metadata or {}), NAME: name_of(path)}
    return {str(key).encode(): str(value).encode() for key, value in sorted(known.items())}
