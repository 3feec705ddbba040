"""Columns of the tables of one generator."""

from __future__ import annotations

import pyarrow as pa

DESIGN = [
    ("generator", pa.string()),
    ("codec", pa.string()),  # "exact" is the oracle, or what no codec is part of
    ("code_bytes", pa.int16()),
]
AUDIT_SCHEMA = pa.schema(
    [
        *DESIGN,
        ("draw", pa.int16()),
        ("measure", pa.string()),
        ("at", pa.float64()),  # top of an overlap, theta of an elimination; null where there is none
        ("queries", pa.int32()),
        ("keys", pa.int32()),
        ("value", pa.float64()),
        ("expected", pa.float64()),  # null where no closed form is known
        ("kind", pa.string()),  # "exact" or "approximate"; null without a closed form
    ]
)
_LOSSES = [(name, pa.float32()) for name in ("elimination", "fer", "dropped_mass_mean", "dropped_mass_p99")]
_BYTES = [("bytes_ratio", pa.float32()), ("bytes_ratio_gqa", pa.float32())]
_TRADEOFF = [
    *DESIGN,
    ("record_bytes", pa.int16()),
    ("rule", pa.string()),
    ("tokens", pa.int32()),
    *((name, pa.int16()) for name in ("draw", "head")),
    ("queries", pa.int32()),
    ("theta", pa.float32()),  # null: no threshold meets the target
]
SWEEP_SCHEMA = pa.schema([*_TRADEOFF, *_LOSSES, *_BYTES])
POINT_SCHEMA = pa.schema(
    [
        *_TRADEOFF,
        ("target_metric", pa.string()),
        ("target", pa.float32()),
        ("method", pa.string()),
        *_LOSSES,
        *_BYTES,
        # What one threshold on normal estimates of this correlation would eliminate at the FER that was measured.
        ("expected_elimination", pa.float32()),
    ]
)
STEP_METRICS = (
    "elimination", "elimination_worst", "survivors", "survivors_union", "bytes_ratio", "bytes_ratio_gqa",
    "fer", "fer_worst", "dropped_mass", "dropped_mass_worst", "needle_mass",
    "needle_found",  # share of the group's heads that keep the key asked for
    "needle_found_group",  # 1 where the group as a whole reads it
)  # fmt: skip
DECODE_SCHEMA = pa.schema(
    [
        *DESIGN,
        ("record_bytes", pa.int16()),
        ("rule", pa.string()),
        ("target", pa.float32()),
        ("draw", pa.int16()),
        *((name, pa.int32()) for name in ("step", "tokens", "cold")),
        *((name, pa.float32()) for name in STEP_METRICS),
        ("needle_age", pa.int32()),  # null where the step asked for nothing
        ("needle_wanted", pa.float32()),  # mass that the planted key would have among normal scores
    ]
)
SCHEMAS = {"audit": AUDIT_SCHEMA, "sweep": SWEEP_SCHEMA, "points": POINT_SCHEMA, "decode": DECODE_SCHEMA}
