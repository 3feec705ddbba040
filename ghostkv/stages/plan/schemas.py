"""The tables of stage `plan`."""

from __future__ import annotations

import pyarrow as pa

PLAN_SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("jobs", pa.int32()),
        ("cpu_seconds", pa.float64()),  # of all jobs, on this machine
        ("longest_cpu_seconds", pa.float64()),  # of one job
        ("memory_gb", pa.float64()),  # of the largest job
        ("disk_gb", pa.float64()),  # that its results take
        ("download_gb", pa.float64()),
    ]
)
COMPARED_SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("quantity", pa.string()),  # cpu_seconds, memory_gb or disk_gb
        ("jobs", pa.int32()),  # of which both are known
        ("planned", pa.float64()),
        ("measured", pa.float64()),
        ("ratio", pa.float64()),  # planned over measured
    ]
)
PLAN_SCHEMAS = {"plan": PLAN_SCHEMA}
COMPARED_SCHEMAS = {"compared": COMPARED_SCHEMA}
