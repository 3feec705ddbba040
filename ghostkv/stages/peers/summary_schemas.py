"""Columns of the tables that the peers of all layers are summed up in."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY

SUMMARY_SCHEMA = pa.schema(
    [
        ("selector", pa.string()),
        ("variant", pa.string()),
        ("kind", pa.string()),
        ("column", pa.string()),
        ("ratio", pa.float64()),
        ("domain", pa.string()),  # "all", or one domain
        ("metric", pa.string()),
        ("mean", pa.float64()),  # of document means; null where a head is not feasible
        ("low", pa.float64()),  # 95 % t interval over documents; null for a single one
        ("high", pa.float64()),
        ("documents", pa.int32()),
        ("heads", pa.int32()),
        ("queries", pa.int64()),
        ("feasible_share", pa.float64()),
        ("head_p05", pa.float64()),  # spread over heads, each pooled over documents
        ("head_p50", pa.float64()),
        ("head_p95", pa.float64()),
        ("head_worst", pa.float64()),
    ]
)
_AGAINST = [
    ("ours", pa.float64()),
    ("ours_low", pa.float64()),
    ("ours_high", pa.float64()),
    ("theirs", pa.float64()),
    ("theirs_low", pa.float64()),
    ("theirs_high", pa.float64()),
    ("difference", pa.float64()),  # theirs - ours, mean over documents
    ("difference_low", pa.float64()),  # 95 % paired t interval
    ("difference_high", pa.float64()),
    ("times", pa.float64()),  # theirs over ours, geometric mean over documents
    ("times_low", pa.float64()),  # 95 % t interval of its log
    ("times_high", pa.float64()),
    ("documents", pa.int32()),
    ("documents_won", pa.int32()),
    ("heads_won", pa.float64()),  # share of (layer, head) where ours is lower, pooled over documents
    ("p_value", pa.float64()),  # of a paired t test over documents; null for a single one
]
COMPARISON_SCHEMA = pa.schema(
    [
        ("selector", pa.string()),
        ("variant", pa.string()),
        ("kind", pa.string()),
        ("column", pa.string()),
        ("theirs_column", pa.string()),  # alone where theirs has no such column
        ("ratio", pa.float64()),
        ("metric", pa.string()),
        *_AGAINST,
    ],
    metadata=MAY_BE_EMPTY,
)
VERDICT_SCHEMA = pa.schema(
    [
        ("selector", pa.string()),
        ("column", pa.string()),
        ("ratio", pa.float64()),
        ("metric", pa.string()),
        ("variants", pa.int16()),  # feasible ones
        ("variant", pa.string()),  # the best of them, in hindsight
        ("theirs_column", pa.string()),
        *_AGAINST,
        ("dropped_mass", pa.float64()),
        ("ours_dropped_mass", pa.float64()),
        ("p_holm", pa.float64()),  # p_value corrected for the number of peers
        ("beaten", pa.bool_()),  # ours is lower beyond chance; null if unknown
        ("lost", pa.bool_()),  # theirs is lower beyond chance
    ],
    metadata=MAY_BE_EMPTY,
)
SUMMARY_SCHEMAS = {"summary": SUMMARY_SCHEMA, "comparison": COMPARISON_SCHEMA, "verdicts": VERDICT_SCHEMA}
