"""Columns of the tables of the benchmark."""

from __future__ import annotations

import pyarrow as pa

SPEED_SCHEMA = pa.schema(
    [
        ("thetas", pa.int32()),
        ("repeat", pa.int32()),
        ("pairs", pa.int64()),  # (query, cold key) pairs
        ("loop_seconds", pa.float64()),  # heads, queries and thetas one by one; null where it was not run
        ("by_theta_seconds", pa.float64()),  # thetas one by one, heads and queries as whole arrays
        ("sweep_seconds", pa.float64()),
        ("ratio", pa.float64()),  # loop over sweep
        ("by_theta_ratio", pa.float64()),
        ("with_output_error", pa.bool_()),
        ("identical_counts", pa.bool_()),
    ]
)
OVERHEAD_SCHEMA = pa.schema(
    [
        ("pair", pa.int16()),
        ("tokens", pa.int32()),
        ("queries", pa.int32()),  # sampled positions per head
        ("threads", pa.int16()),
        ("plain_seconds", pa.float64()),
        ("capture_seconds", pa.float64()),  # forward, recording, proof, writing, reading back
        ("ratio", pa.float64()),  # capture_seconds / plain_seconds
    ]
)
