"""Columns of the tables of the decode."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY

QUANTILES = {"p01": 0.01, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_SPREAD = [("mean", pa.float64()), *((name, pa.float64()) for name in QUANTILES)]
_WHERE = [("source", pa.string()), ("layer", pa.int16())]  # source: trace, or a generator's label
# Counts are tokens of one KV head's group, bytes are of one KV head.
MEASURES = (
    "cold", "eliminated", "survivors", "hits", "resurrected", "from_archive", "re_resurrected", "hot_held",
    "warm_held", "ghost_held", "archive_held", "promoted", "evicted", "archived", "fast_held", "slow_held", "disk_held",
    "fast_read", "slow_read", "disk_read", "fast_written", "slow_written", "disk_written", "bytes_ratio",
)  # fmt: skip
_LIFE = [*_WHERE, ("kv_head", pa.int16()), ("policy", pa.string())]
STEP_SCHEMA = pa.schema(
    [
        *_LIFE,
        ("step", pa.int32()),
        ("steps", pa.int32()),
        *((name, pa.float64()) for name in MEASURES),  # means over the steps of the bin
    ]  # fmt: skip
)
SPREAD_SCHEMA = pa.schema([*_LIFE, ("measure", pa.string()), ("steps", pa.int32()), *_SPREAD])
LOSS_SCHEMA = pa.schema(
    [*_WHERE, ("head", pa.int16()), ("measure", pa.string()), ("steps", pa.int32()), *_SPREAD]
)
LOSS_STEP_SCHEMA = pa.schema(
    [
        *_WHERE,
        ("head", pa.int16()),
        ("measure", pa.string()),
        *((name, pa.int32()) for name in ("step", "steps")),
        *((name, pa.float64()) for name in ("mean", "p99", "max")),
    ]
)
# Means over all steps. The ceiling moves no bytes: its `outside_read` is what its misses weigh, its `disk_read` the least that
# disk must serve, and what belongs to a policy alone is null.
BUDGETED = (
    "survivors", "hits", "resurrected", "re_resurrected", "from_archive", "slow_read", "disk_read", "outside_read",
)  # fmt: skip
BUDGET_SCHEMA = pa.schema(
    [
        *_LIFE,
        ("budget", pa.float64()),  # warm slots as a share of the tokens
        ("slots", pa.int32()),
        ("budget_bytes", pa.int64()),  # K and V of as many tokens
        ("steps", pa.int32()),
        *((name, pa.float64()) for name in BUDGETED),
        ("resurrected_p99", pa.float64()),
        ("outside_read_p99", pa.float64()),
    ],
    metadata=MAY_BE_EMPTY,
)
# Counts are rows, K and V of one token of one KV head; all but the worst are means over requests, one a step.
BUFFER_SCHEMA = pa.schema(
    [
        *_LIFE[:-1],
        ("request", pa.string()),  # survivors, or top_k
        ("asked", pa.int32()),  # rows that a request of top_k asks for; null for survivors
        ("buffer", pa.int32()),  # rows that it holds beside sinks and hot window
        ("steps", pa.int32()),
        ("rows", pa.float64()),  # asked for
        ("misses", pa.float64()),  # under LRU
        ("misses_p99", pa.float64()),
        ("misses_max", pa.int32()),
        ("first_reads", pa.float64()),  # misses of rows that nothing had touched since the first step
        ("least_misses", pa.float64()),  # that any choice leaves; null where it was not asked
    ]
)
STORE_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("policy", pa.string()),  # whose archive the disk is read for
        ("step", pa.int32()),
        ("rows", pa.int64()),  # survivors of all KV heads, gathered from the store
        ("wrong_rows", pa.int64()),  # rows that differ from the capture in any bit
        ("append_seconds", pa.float64()),
        ("gather_seconds", pa.float64()),
        # Survivors that the policy had on disk alone; null where none were read at this step.
        ("archived_rows", pa.int64()),
        ("archived_wrong_rows", pa.int64()),
        ("archived_bytes", pa.int64()),  # K and V of those rows
        # Read past the page cache; else through the map, as the file system has no O_DIRECT.
        ("direct", pa.bool_()),
        ("requests", pa.int64()),
        ("counted_bytes", pa.int64()),  # the 4 KiB blocks of the file that hold those rows
        (
            "read_bytes",
            pa.int64(),
        ),  # that the kernel fetched from the device meanwhile; null: it does not say
        ("archive_seconds", pa.float64()),
    ],
    metadata=MAY_BE_EMPTY,
)
# One step of one layer, all KV heads, under one buffer. Seconds are the least over rounds.
OVERLAP_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("source", pa.string()),  # device: past the page cache (O_DIRECT); page cache: after it was read
        ("buffer", pa.int32()),  # rows of a KV head
        ("threads", pa.int32()),  # that read
        ("step", pa.int32()),
        # Rows: sinks, hot window and survivors that memory holds; survivors that it does not
        ("held", pa.int64()),
        ("misses", pa.int64()),
        # Runs of blocks of 4 KiB, and their bytes
        ("requests", pa.int64()),
        ("read_bytes", pa.int64()),
        # The step: one request after the other, then attention; by all threads, then attention; and attention meanwhile
        *((name, pa.float64()) for name in ("serial_seconds", "apart_seconds", "overlapped_seconds")),
        ("read_seconds", pa.float64()),  # what the store takes for the misses, by all threads
        ("held_seconds", pa.float64()),  # attention to what memory holds: what can be hidden
        # The same blocks and as many bytes in one piece, read without the store; a block alone; and a copy of the attended rows
        *(
            (name, pa.float64())
            for name in ("device_seconds", "stream_seconds", "block_seconds", "copy_seconds")
        ),
        ("error", pa.float64()),  # largest relative difference of a head's output from float64
    ],
    metadata=MAY_BE_EMPTY,
)
OVERLAP_SCHEMAS = {"overlap": OVERLAP_SCHEMA}
SCHEMAS = {
    "steps": STEP_SCHEMA,
    "spread": SPREAD_SCHEMA,
    "losses": LOSS_SCHEMA,
    "loss_steps": LOSS_STEP_SCHEMA,
    "budgets": BUDGET_SCHEMA,
    "buffers": BUFFER_SCHEMA,
    "store": STORE_SCHEMA,
}
