"""Artefacts prove themselves: each carries SHA-256 checksums of all its bytes, and the name that it was written under.

A Parquet file has the checksums between its last row group and its footer, 32 bytes each: one for each row group, then
one of the footer and what follows it. Readers of Parquet start at the end of a file and go by the offsets in the
footer, so they never see these bytes. What counts to a row group begins where the one before it ends, or where the file
begins. So no byte is without a checksum, and one layer is verified without reading the others.

The header of safetensors has one checksum, as text; see `ghostkv.files.tensors`.

The name is that of the file in its folder, such as ``layer_03/points``. It tells a file from that of another layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ghostkv.files.errors import TableError

# The entry of a file's metadata that holds its name.
NAME = "artefact"
# The metadata of a schema whose tables may have no rows.
MAY_BE_EMPTY = {b"rows": b"may be none"}
_DIGEST = 32
# The length of a Parquet file's footer and the magic number after it.
_END = 8
UNPROVED = (
    "its content does not have the checksum that is written in it. It was damaged, or a version of the lab wrote it that "
    "knew no checksums"
)


def name_of(path: str | Path) -> str:
    """What a file calls itself: its folder's name and its own, without the ending."""
    path = Path(path).absolute()
    return f"{path.parent.name}/{path.stem}"


def damaged(path: str | Path, what: object) -> TableError:
    """The error of a file that cannot be trusted, with what makes it anew."""
    return TableError(
        f"{path}: {what}.\n  Write: rm '{path}'   and run the same command again; it makes the file anew"
    )


def check_name(name: object, path: str | Path) -> None:
    """Raise TableError where a file was written under another name than that of `path`."""
    if name != name_of(path):
        raise damaged(path, f"this is {name}, not {name_of(path)}: a file of another layer, text or stage")


def seal_parquet(path: str | Path) -> None:
    """Put the checksums into a Parquet file that was just written."""
    with pa.OSFile(str(path)) as file:
        footer = _footer(file)
        ends = _ends(pq.read_metadata(path), file.size() - len(footer))
        digests = [_sha256(file.read_at(stop - start, start)) for start, stop in pairwise((0, *ends))]
    with open(path, "r+b") as file:
        file.seek(ends[-1])
        file.write(b"".join((*digests, _sha256(footer), footer)))


class SealedParquet:
    """A Parquet file: its footer is verified when it is opened, a row group when it is read.

    Parameters
    ----------
    path : str or Path
    schema : pyarrow.Schema, optional
        The columns and types that it must have. There must be rows, unless the metadata are `MAY_BE_EMPTY`.
    more : bool
        Whether it may have other columns too.

    Raises
    ------
    TableError
        The file is missing, was damaged, is another artefact under this name, has other columns, or lacks rows.
    """

    def __init__(self, path: str | Path, schema: pa.Schema | None = None, more: bool = False) -> None:
        self.path = Path(path)
        with self._readable():
            self._source = pa.OSFile(str(path))
            footer = _footer(self._source)
            start = self._source.size() - len(footer) - _DIGEST
            if start < 0 or self._source.read_at(_DIGEST, start) != _sha256(footer):
                raise damaged(path, UNPROVED)
            self._parquet = pq.ParquetFile(self._source)
        self.footer = self._parquet.metadata
        self._ends = _ends(self.footer, start - _DIGEST * max(self.footer.num_row_groups, 1))
        stored = self._parquet.schema_arrow.metadata or {}
        self.metadata = {
            key.decode(): value.decode() for key, value in stored.items() if not key.startswith(b"ARROW")
        }
        check_name(self.metadata.pop(NAME, None), path)
        if schema is not None:
            self._check_columns(schema, more)

    def group(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One row group; TableError where its bytes do not have their checksum."""
        with self._readable():
            self._verify(number)
            return self._parquet.read_row_group(number, columns)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows; TableError where a byte of the file is not as it was written."""
        self.verify()
        with self._readable():
            return self._parquet.read(columns)

    def verify(self) -> None:
        """Raise TableError where a byte of the file is not as it was written."""
        with self._readable():
            for number in range(len(self._ends)):
                self._verify(number)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise damaged(self.path, "there is no such file") from error
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.path, f"no readable Parquet file ({str(error).splitlines()[0]})") from error

    def _verify(self, number: int) -> None:
        start, stop = (0, *self._ends)[number : number + 2]
        digest = self._source.read_at(_DIGEST, self._ends[-1] + number * _DIGEST)
        if _sha256(self._source.read_at(stop - start, start)) != digest:
            raise damaged(self.path, UNPROVED)

    def _check_columns(self, schema: pa.Schema, more: bool) -> None:
        found, due = (
            dict(zip(one.names, one.types, strict=True)) for one in (self._parquet.schema_arrow, schema)
        )
        lacks = {name: str(kind) for name, kind in due.items() if found.get(name) != kind}
        beyond = {name: str(kind) for name, kind in found.items() if due.get(name) != kind and not more}
        if lacks or beyond:
            raise damaged(self.path, f"its columns are not this table's: it lacks {lacks}, and has {beyond}")
        if not self.footer.num_rows and (schema.metadata or {}) != MAY_BE_EMPTY:
            raise damaged(self.path, "it has no rows, and there must be some")


def _footer(file: pa.NativeFile) -> bytes:
    """The footer of a Parquet file, its length and the magic number."""
    size = file.size()
    length = int.from_bytes(file.read_at(_END, max(size - _END, 0))[:4], "little") + _END
    if length > size:
        raise OSError("it is cut, or its end was damaged")
    return file.read_at(length, size - length)


def _ends(footer: pq.FileMetaData, end: int) -> tuple[int, ...]:
    """Where the bytes end that count to each row group; there is one end at least."""
    ends = [end]
    for number in range(footer.num_row_groups - 1, 0, -1):
        group = footer.row_group(number)
        first = group.column(0)
        # A group without rows has no bytes, and says that it begins at 0.
        ends.append((first.dictionary_page_offset or first.data_page_offset) if group.num_rows else ends[-1])
    return tuple(reversed(ends))


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
