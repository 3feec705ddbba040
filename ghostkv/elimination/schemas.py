"""Columns that tables of several stages have."""

from __future__ import annotations

import pyarrow as pa

BOUND_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("kv_head", pa.int16()),
        ("codec", pa.string()),
        ("code_bytes", pa.int16()),
        ("record_bytes", pa.int16()),
        ("text", pa.string()),
        ("domain", pa.string()),
        ("pairs", pa.int64()),
        ("violations", pa.int64()),  # errors above the margin; a proof says 0
        ("score_rmse", pa.float32()),
        ("margin_mean", pa.float32()),
        ("score_spread", pa.float32()),  # standard deviation of the exact scores
    ]
)

# Of the frontier's points, which thresholds are taken from, and of its losses over the context.
POINT_KEYS = [
    ("layer", pa.int16()),
    ("head", pa.int16()),
    ("kv_head", pa.int16()),
    ("codec", pa.string()),  # "exact" is the oracle
    ("code_bytes", pa.int16()),
    ("record_bytes", pa.int16()),  # code and rho; 0 for the oracle
    ("rule", pa.string()),
    ("text", pa.string()),
    ("domain", pa.string()),
    ("role", pa.string()),
    ("theta", pa.float32()),  # null: no threshold meets the target, nothing is eliminated
    ("queries", pa.int32()),
]
METRICS = [
    (name, pa.float32())
    for name in (
        "elimination",
        "fer",
        "fer_cold",
        "dropped_mass_mean",
        "dropped_mass_p99",
        "dropped_mass_max",
        "lost_95",
        "lost_99",
        "output_error_mean",
        "output_error_p99",
        "bytes_ratio",
        "bytes_ratio_gqa",
    )
]
POINT_SCHEMA = pa.schema(
    [
        *POINT_KEYS,
        ("target_metric", pa.string()),
        ("target", pa.float32()),
        ("method", pa.string()),
        *METRICS,
    ]
)
CONTEXT_SCHEMA = pa.schema(
    [
        *POINT_KEYS,
        ("target_metric", pa.string()),
        ("target", pa.float32()),
        ("band_start", pa.int32()),
        ("band_stop", pa.int32()),
        ("cold_keys", pa.float32()),
        *METRICS,
    ]
)
