"""Fitted codecs and ghost records of one layer, on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ghostkv.codecs import Codec, Records, by_name
from ghostkv.files.errors import TableError
from ghostkv.files.io import ParquetAppender, atomic_path


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
    """Write fitted codecs, keyed by (spec, KV head), as one safetensors file."""
    tensors = {
        f"{spec.key}/{kv_head}/{name}": np.ascontiguousarray(array)
        for (spec, kv_head), codec in fitted.items()
        for name, array in codec.arrays().items()
    }
    with atomic_path(path) as temporary:
        # One entry: safetensors keeps several in a hash map, whose order differs from process to process.
        save_file(tensors, temporary, metadata={"provenance": json.dumps(dict(metadata), sort_keys=True)})


def load_codecs(path: str | Path, chosen: Sequence[CodecSpec]) -> dict[tuple[CodecSpec, int], Codec]:
    """Read fitted codecs, keyed by (spec, KV head).

    Raises
    ------
    TableError
        The file is missing or damaged, or holds none of the chosen codecs.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TableError(
            f"{path}: not a readable safetensors file ({error}). Delete it and rerun sketch."
        ) from error
    by_key = {spec.key: spec for spec in chosen}
    arrays: dict[tuple[CodecSpec, int], dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        key, kv_head, array = name.split("/")
        if key in by_key:
            arrays.setdefault((by_key[key], int(kv_head)), {})[array] = tensor
    missing = set(by_key) - {spec.key for spec, _ in arrays}
    if missing:
        raise TableError(f"{path}: lacks codecs {sorted(missing)}. Delete it and rerun sketch.")
    return {
        (spec, kv_head): by_name.make(spec.name, spec.code_bytes).load(found)
        for (spec, kv_head), found in arrays.items()
    }


class RecordWriter(ParquetAppender):
    """Write `records.parquet`, one row group per text."""

    def __init__(self, path: str | Path, chosen: Sequence[CodecSpec], metadata: Mapping[str, str]):
        super().__init__(path, record_schema(chosen), metadata)

    def add(self, text: str, tokens: int, written: Mapping[CodecSpec, list[Records]]) -> None:
        """Append a text's records; `written` holds for each spec one `Records` per KV head."""
        kv_heads = len(next(iter(written.values())))
        columns = {
            "text": pa.array([text] * (kv_heads * tokens), pa.string()),
            "kv_head": np.repeat(np.arange(kv_heads, dtype=np.int16), tokens),
            "position": np.tile(np.arange(tokens, dtype=np.int32), kv_heads),
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
    try:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            names = file.read_row_group(group, columns=["text", "kv_head"])
            if names["text"][0].as_py() == text:
                return _unpack(file.read_row_group(group), names["kv_head"][-1].as_py() + 1, chosen)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise TableError(
            f"{path}: not a readable record file ({error}). Delete it and rerun sketch."
        ) from error
    raise TableError(f"{path}: no records of text {text!r}. Delete it and rerun sketch.")


def _unpack(table: pa.Table, kv_heads: int, chosen: Sequence[CodecSpec]) -> dict[CodecSpec, list[Records]]:
    found = {}
    for spec in chosen:
        column = table[f"{spec.key}_code"].combine_chunks()
        code = np.frombuffer(column.buffers()[1], np.uint8, len(column) * spec.code_bytes)
        code = code.reshape(kv_heads, -1, spec.code_bytes)
        rho = table[f"{spec.key}_rho"].to_numpy().reshape(kv_heads, -1)
        found[spec] = [Records(code[head], rho[head]) for head in range(kv_heads)]
    return found
