"""Fitted codecs and ghost records of one layer, on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ghostkv.codecs import Codec, Records, by_name
from ghostkv.files.io import ParquetAppender
from ghostkv.files.seals import SealedParquet, damaged
from ghostkv.files.tensors import load_tensors, save_tensors


@dataclass(frozen=True, order=True)
class CodecSpec:
    """A codec at one record size, as the config names it."""

    name: str
    code_bytes: int

    @property
    def key(self) -> str:
        """Name of its columns and tensors."""
        return f"{self.name}_{self.code_bytes}"


def record_schema(chosen: Sequence[CodecSpec]) -> pa.Schema:
    """Columns of `records.parquet`: one row per text, KV head and token, the code and rho of every codec."""
    fields = [("text", pa.string()), ("kv_head", pa.int16()), ("position", pa.int32())]
    for spec in chosen:
        fields += [(f"{spec.key}_code", pa.binary(spec.code_bytes)), (f"{spec.key}_rho", pa.uint8())]
    return pa.schema(fields)


def save_codecs(
    fitted: Mapping[tuple[CodecSpec, int], Codec], path: str | Path, metadata: Mapping[str, str]
) -> None:
    """Write fitted codecs, keyed by (spec, KV head counted from 0), as one safetensors file."""
    tensors = {
        f"{spec.key}/{kv_head}/{name}": array
        for (spec, kv_head), codec in fitted.items()
        for name, array in codec.arrays().items()
    }
    save_tensors(tensors, path, metadata)


def load_codecs(path: str | Path, chosen: Sequence[CodecSpec]) -> dict[tuple[CodecSpec, int], Codec]:
    """Read fitted codecs, keyed by (spec, KV head).

    Raises
    ------
    TableError
        The file is missing or damaged, or holds none of the chosen codecs.
    """
    tensors = load_tensors(path)
    by_key = {spec.key: spec for spec in chosen}
    arrays: dict[tuple[CodecSpec, int], dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        key, kv_head, array = name.split("/")
        if key in by_key:
            arrays.setdefault((by_key[key], int(kv_head)), {})[array] = tensor
    # Each codec is fitted for every KV head.
    heads = range(len({kv_head for _, kv_head in arrays}) or 1)
    missing = sorted(spec.key for spec in chosen if any((spec, head) not in arrays for head in heads))
    if missing:
        raise damaged(path, f"it lacks the codecs {', '.join(missing)}, or some of their KV heads")
    return {
        (spec, kv_head): by_name.make(spec.name, spec.code_bytes).load(found)
        for (spec, kv_head), found in arrays.items()
    }


class RecordWriter(ParquetAppender):
    """Write `records.parquet`, one row group per text."""

    def __init__(self, path: str | Path, chosen: Sequence[CodecSpec], metadata: Mapping[str, str]):
        super().__init__(path, record_schema(chosen), metadata)

    def add(
        self, text: str, kv_numbers: np.ndarray, tokens: int, written: Mapping[CodecSpec, list[Records]]
    ) -> None:
        """Append a text's records; `written` holds for each spec one `Records` per KV head, which bear these numbers."""
        columns = {
            "text": pa.array([text] * (len(kv_numbers) * tokens), pa.string()),
            "kv_head": np.repeat(kv_numbers, tokens),
            "position": np.tile(np.arange(tokens, dtype=np.int32), len(kv_numbers)),
        }
        for spec, heads in written.items():
            code = np.concatenate([records.code for records in heads])
            columns[f"{spec.key}_code"] = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(spec.code_bytes), len(code), [None, pa.py_buffer(np.ascontiguousarray(code))]
            )
            columns[f"{spec.key}_rho"] = np.concatenate([records.rho for records in heads])
        self.append(columns)


def read_records(path: str | Path, text: str, chosen: Sequence[CodecSpec]) -> dict[CodecSpec, list[Records]]:
    """Read a text's records: for each spec one `Records` per KV head.

    Raises
    ------
    TableError
        The file is missing or damaged, or has no records of the text.
    """
    columns = record_schema(chosen)
    file = SealedParquet(path, columns, more=True)
    for group in range(file.footer.num_row_groups):
        # A row group holds one text.
        if file.footer.row_group(group).column(0).statistics.min == text:
            table = file.group(group, columns.names)
            return _unpack(table, len(table["kv_head"].unique()), chosen)
    raise damaged(path, f"it has no records of text {text!r}")


def _unpack(table: pa.Table, kv_heads: int, chosen: Sequence[CodecSpec]) -> dict[CodecSpec, list[Records]]:
    found = {}
    for spec in chosen:
        column = table[f"{spec.key}_code"].combine_chunks()
        code = np.frombuffer(column.buffers()[1], np.uint8, len(column) * spec.code_bytes)
        code = code.reshape(kv_heads, -1, spec.code_bytes)
        rho = table[f"{spec.key}_rho"].to_numpy().reshape(kv_heads, -1)
        found[spec] = [Records(code[head], rho[head]) for head in range(kv_heads)]
    return found
