"""Columns of the tables of timed layers and steps."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY

LAYER_SCHEMA = pa.schema(
    [
        ("shape", pa.string()),
        ("source", pa.string()),  # "captured", or "generated" with the spectrum of what was captured
        ("headline", pa.bool_()),  # of the shape that headline figures are about
        *((name, pa.int32()) for name in ("heads", "kv_heads", "head_dim", "tokens", "threads", "rounds")),
        ("code_bytes", pa.int32()),
        ("theta", pa.float64()),
        # Shares of the cold keys, mean over KV heads and queries
        ("candidates", pa.float64()),
        ("survivors", pa.float64()),
        ("output_error", pa.float64()),  # mean over heads and the queries that did not choose theta
        ("queries", pa.int32()),  # of them
        ("survivors_equal", pa.bool_()),  # to those of float64, for the first of them
        # Bytes that a step reads, K and V as bfloat16
        ("counted_bytes", pa.float64()),
        ("dense_bytes", pa.float64()),
        # Least of the rounds
        (
            "float32_seconds",
            pa.float64(),
        ),  # the fastest of torch's ways; null where far slower than the other type
        ("bfloat16_seconds", pa.float64()),
        ("ghost_float32_seconds", pa.float64()),
        ("ghost_seconds", pa.float64()),  # K and V as bfloat16
        ("scan_seconds", pa.float64()),  # the same with no survivor
        ("dense_seconds", pa.float64()),  # the fastest dense way of this row and those of fewer threads
        ("ratio", pa.float64()),  # dense_seconds over ghost_seconds
        # Processor time of all threads, likewise, and the ratio of that
        ("dense_cpu_seconds", pa.float64()),
        ("ghost_cpu_seconds", pa.float64()),
        ("cpu_ratio", pa.float64()),
        # This machine in the same rounds: 10^9 B/s read and written by a copy, and a scan of records that lie in the cache
        ("copy_gb_s", pa.float64()),
        ("arithmetic_seconds", pa.float64()),
        ("ghost_copy_share", pa.float64()),  # counted bytes over time, over the copy
        ("dense_copy_share", pa.float64()),
        ("scan_limit_share", pa.float64()),  # the longer of copying and arithmetic over the scan's time
    ]
)
STEP_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("text", pa.string()),
        ("dtype", pa.string()),
        *((name, pa.int32()) for name in ("tokens", "threads", "steps")),
        # Median step: the model as it comes; its attention in groups over a cache with room, null where SDPA is not its
        # attention; the policy; and the model over hardly any context
        *((f"{way}_seconds", pa.float64()) for way in ("own", "grouped", "ghost", "rest")),
        *((f"{way}_cpu_seconds", pa.float64()) for way in ("own", "grouped", "ghost", "rest")),
        ("own_ratio", pa.float64()),  # own_seconds over ghost_seconds
        # The fastest dense step at this context, of any way and dtype, over the fastest under the policy
        ("ratio", pa.float64()),
        # Of the steps, against the model as it comes in the same dtype
        ("kl", pa.float64()),
        ("top1", pa.float64()),
        ("bytes_ratio_gqa", pa.float64()),
        ("elimination", pa.float64()),
    ],
    metadata=MAY_BE_EMPTY,
)
