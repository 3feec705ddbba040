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
