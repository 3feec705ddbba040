"""Columns of the tables that `quality` derives from those of all texts."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY

SUMMARY_SCHEMA = pa.schema(
    [
        ("policy", pa.string()),
        ("role", pa.string()),  # identity, mass or budget: what the headline quotes it for; null for others
        ("kind", pa.string()),
        ("family", pa.string()),
        ("target", pa.float64()),
        ("domain", pa.string()),  # "all", or one domain
        ("documents", pa.int32()),
        ("positions", pa.int32()),
        *[
            (f"{metric}{end}", pa.float64())
            for metric in ("kl", "top1", "dense_perplexity", "sparse_perplexity")
            for end in ("", "_low", "_high")
        ],
        ("kl_p99", pa.float64()),
        ("kl_max", pa.float64()),
        ("max_logit_difference", pa.float64()),
        ("kept_fraction", pa.float64()),
        ("bytes_ratio", pa.float64()),
        ("bytes_ratio_gqa", pa.float64()),
        ("bytes_ratio_gqa_low", pa.float64()),  # 95 % Student interval over documents
        ("bytes_ratio_gqa_high", pa.float64()),
        # Standard deviations between documents of their means.
        *[(f"{metric}_deviation", pa.float64()) for metric in ("kl", "top1", "bytes_ratio_gqa")],
        ("certificate", pa.string()),
        ("prefill", pa.string()),
        ("certified", pa.float64()),  # largest dropped mass that a certificate admits; null without one
        ("violated", pa.int64()),  # queries of a head whose certificate did not hold
    ]
)
# Policies against every family of peers at the policy's own bytes, interpolated between the peer's budgets.
EQUAL_BYTES_SCHEMA = pa.schema(
    [
        ("policy", pa.string()),
        ("role", pa.string()),
        ("against", pa.string()),  # a family
        ("against_kind", pa.string()),  # peer or oracle
        ("domain", pa.string()),
        ("bytes_ratio_gqa", pa.float64()),  # of the policy, as measured
        ("lowest", pa.float64()),  # bytes ratios that the family was measured at
        ("highest", pa.float64()),
        ("kl", pa.float64()),
        ("their_kl", pa.float64()),  # null where the policy's bytes lie beyond theirs
        ("kl_ratio", pa.float64()),  # theirs over the policy's
        ("kl_ratio_low", pa.float64()),  # 95 % over documents; over blocks of a single one
        ("kl_ratio_high", pa.float64()),
        ("documents", pa.int32()),
        (
            "kl_log_ratio_deviation",
            pa.float64(),
        ),  # between documents, of the ratio's logarithm
        ("top1", pa.float64()),
        ("their_top1", pa.float64()),
        ("positions", pa.int32()),
    ],
    metadata=MAY_BE_EMPTY,
)
SUMMARY_TABLES = {"summary": SUMMARY_SCHEMA, "equal_bytes": EQUAL_BYTES_SCHEMA}
