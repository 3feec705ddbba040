"""Columns of the tables that a layer of the peers writes."""

from __future__ import annotations

import pyarrow as pa

KEYS = [
    ("layer", pa.int16()),
    ("selector", pa.string()),
    ("variant", pa.string()),  # hyperparameters
    ("kind", pa.string()),  # oracle, peer, extended or ours
    ("text", pa.string()),
    ("domain", pa.string()),
    ("ratio", pa.float64()),  # the budget
    ("feasible", pa.bool_()),  # false: index and kept keys alone exceed the budget, metrics are null
    ("queries", pa.int32()),
]
MEANS = (
    "recall_32", "fer", "dropped_mass", "output_error", "bytes_ratio", "bytes_ratio_gqa", "index_ratio",
)  # fmt: skip
METRICS = [
    (name, pa.float32())
    for name in (
        "recall_32",
        "fer",
        "dropped_mass_mean",
        "dropped_mass_p99",
        "output_error_mean",
        "output_error_p99",
        "bytes_ratio",
        "bytes_ratio_gqa",
        "index_ratio",
    )
]
PEER_SCHEMA = pa.schema([*KEYS, ("head", pa.int16()), ("kv_head", pa.int16()), *METRICS])
# One row a layer and text: its queries pooled over heads, so that a p99 is one of all of them.
LAYER_SCHEMA = pa.schema([*KEYS, ("heads", pa.int16()), *METRICS, ("output_error_worst_head", pa.float32())])
LAYER_SCHEMAS = {"peers": PEER_SCHEMA, "layers": LAYER_SCHEMA}
