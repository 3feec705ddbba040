"""Columns of the tables that the frontier derives from all its layers."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.stages.frontier.schemas import METRICS, POINT_SCHEMA

HEAD = ["layer", "head", "kv_head", "codec", "code_bytes", "record_bytes", "rule"]
SAFE_SCHEMA = pa.schema(
    [
        *[(name, POINT_SCHEMA.field(name).type) for name in HEAD],
        ("theta", pa.float32()),  # chosen on threshold texts
        ("queries", pa.int32()),  # held-out, all texts
        ("elimination", pa.float32()),
        ("fer", pa.float32()),
        ("fer_cold", pa.float32()),
        ("bytes_ratio", pa.float32()),
        ("bytes_ratio_gqa", pa.float32()),
        ("elimination_worst_text", pa.float32()),
        ("fer_worst_text", pa.float32()),
        ("safe", pa.bool_()),  # over all held-out queries
        ("safe_every_text", pa.bool_()),
        ("hindsight_theta", pa.float32()),
        ("hindsight_elimination", pa.float32()),
        ("hindsight_fer", pa.float32()),
        ("safe_hindsight", pa.bool_()),
    ]
)
LAYER_HEAD_SCHEMA = pa.schema(
    [
        *[(name, POINT_SCHEMA.field(name).type) for name in HEAD],
        ("target_metric", pa.string()),
        ("target", pa.float32()),
        ("method", pa.string()),
        ("theta", pa.float32()),
        ("queries", pa.int32()),
        *METRICS,
        ("fer_worst_text", pa.float32()),
        ("dropped_mass_worst_text", pa.float32()),
        ("elimination_worst_text", pa.float32()),
    ]
)
SUMMARY_SCHEMAS = {"safe_points": SAFE_SCHEMA, "layer_head": LAYER_HEAD_SCHEMA}
