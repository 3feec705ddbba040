"""Columns of the tables that the peers of all layers are summed up in."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY

SUMMARY_SCHEMA = pa.schema(
    [
        ("selector", pa.string()),
        ("variant", pa.string()),
        ("kind", pa.string()),
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
COMPARISON_SCHEMA = pa.schema(
    [
        ("selector", pa.string()),
        ("variant", pa.string()),
        ("kind", pa.string()),
        ("ratio", pa.float64()),
        ("metric", pa.string()),
        ("ours", pa.float64()),
        ("ours_low", pa.float64()),
        ("ours_high", pa.float64()),
        ("theirs", pa.float64()),
        ("theirs_low", pa.float64()),
        ("theirs_high", pa.float64()),
        ("difference", pa.float64()),  # theirs - ours, mean over documents
        ("difference_low", pa.float64()),  # 95 % paired t interval
        ("difference_high", pa.float64()),
        ("documents", pa.int32()),
        ("documents_won", pa.int32()),
        ("heads_won", pa.float64()),  # share of (layer, head) where ours is lower, pooled over documents
        ("separate", pa.bool_()),  # ours lower, intervals do not overlap; null for a single document
        ("separate_paired", pa.bool_()),  # the paired interval lies above 0
    ],
    metadata=MAY_BE_EMPTY,
)
VERDICT_SCHEMA = pa.schema(
    [
        ("selector", pa.string()),
        ("kind", pa.string()),
        ("ratio", pa.float64()),
        ("variants", pa.int16()),  # feasible ones
        ("output_error", pa.float64()),  # of the best variant, in hindsight
        ("dropped_mass", pa.float64()),
        ("ours_output_error", pa.float64()),
        ("ours_dropped_mass", pa.float64()),
        ("beaten", pa.bool_()),  # all variants, both metrics, intervals not overlapping; null if unknown
        ("beaten_paired", pa.bool_()),  # the same with paired intervals
        ("lower", pa.bool_()),  # the same by means alone
    ],
    metadata=MAY_BE_EMPTY,
)
SUMMARY_SCHEMAS = {"summary": SUMMARY_SCHEMA, "comparison": COMPARISON_SCHEMA, "verdicts": VERDICT_SCHEMA}
