"""Columns of the tables of the store."""

from __future__ import annotations

import pyarrow as pa

KILL_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # "byte": killed by itself within a write; "delay": from outside
        ("point", pa.int32()),
        ("planned", pa.int64()),  # bytes and calls until the kill; null for delays
        ("delay", pa.float64()),  # seconds from the fork to the kill; null for bytes
        ("fsync", pa.bool_()),
        ("phase", pa.string()),  # what was interrupted, or "outside"
        ("bytes_written", pa.int64()),  # by whole calls, and the part of the interrupted one
        ("acknowledged_tokens", pa.int64()),  # appends that had returned
        ("started_tokens", pa.int64()),  # with the append that was under way
        ("recovered_tokens", pa.int64()),  # in the store when it was opened again
        ("cut_bytes", pa.int64()),  # torn writes that opening cut off
        ("readable", pa.bool_()),
        ("identical", pa.bool_()),  # every recovered key, value and record, bit by bit
        ("appendable", pa.bool_()),  # appended to, closed, opened again, compared again
        ("survived", pa.bool_()),  # all of these, and acknowledged <= recovered <= started
        ("fault", pa.string()),
    ]
)
CORRUPTION_SCHEMA = pa.schema(
    [
        ("point", pa.int32()),
        ("kind", pa.string()),  # flip, stretch, zeros, cut
        ("file", pa.string()),
        ("part", pa.string()),  # header, marks, records, rows, log, padding
        ("offset", pa.int64()),
        ("bytes", pa.int64()),  # damaged, or cut off
        ("outcome", pa.string()),  # refused at open, refused at read, harmless, silent
        ("named_file", pa.bool_()),  # the error names the damaged file; null where there was none
        ("named_offset", pa.int64()),
        ("has_remedy", pa.bool_()),
        ("kept_tokens", pa.int64()),  # after repair, where it was refused and could be repaired
        ("kept_identical", pa.bool_()),
    ]
)
GATHER_SCHEMA = pa.schema(
    [
        ("method", pa.string()),  # map, map_verified, blocks, memory
        ("spread", pa.string()),  # scattered, clustered
        ("rows", pa.int32()),
        ("repeat", pa.int32()),
        ("seconds", pa.float64()),  # of one gather, mean over calls
        ("rows_per_second", pa.float64()),
        ("bytes_per_second", pa.float64()),  # of wanted rows
        ("ratio", pa.float64()),  # seconds over those of NumPy in memory, same repeat
        ("wanted_bytes", pa.int64()),
        ("blocks", pa.int64()),  # of 4,096 bytes, distinct
        ("requests", pa.int64()),
    ]
)
APPEND_SCHEMA = pa.schema(
    [
        ("fsync", pa.bool_()),
        ("batch", pa.int32()),  # tokens of one append
        *((name, pa.int32()) for name in ("repeat", "tokens")),
        *((name, pa.float64()) for name in ("seconds", "tokens_per_second")),
        ("bytes_per_second", pa.float64()),  # of K, V and records
        ("seconds_per_append", pa.float64()),
    ]
)
TRIAL_SCHEMAS = {"kills": KILL_SCHEMA, "corruptions": CORRUPTION_SCHEMA}
TIME_SCHEMAS = {"gathers": GATHER_SCHEMA, "appends": APPEND_SCHEMA}
