"""Columns of the checks over all generators."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.stages.synthetic.schemas import DESIGN

CHECK_SCHEMA = pa.schema(
    [
        *DESIGN,
        ("measure", pa.string()),
        ("at", pa.float64()),
        ("kind", pa.string()),
        ("draws", pa.int16()),
        ("queries", pa.int32()),
        *((name, pa.float64()) for name in ("measured", "expected")),
        ("standard_error", pa.float64()),  # of measured less expected, over draws
        ("low", pa.float64()),  # 95 % Student interval of the measured mean
        ("high", pa.float64()),
        ("sigma", pa.float64()),  # deviation as a normal quantile of the same probability as Student's t
        (
            "limit",
            pa.float64(),
        ),  # sigma that one of all exact comparisons passes by chance with 1 % probability
    ]
)
SUMMARY_SCHEMAS = {"checks": CHECK_SCHEMA}
