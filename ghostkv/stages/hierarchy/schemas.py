"""Columns of the tables that a layer of the hierarchy writes."""

from __future__ import annotations

import pyarrow as pa

HEAD_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("head", pa.int16()),
        ("kv_head", pa.int16()),
        ("text", pa.string()),
        ("domain", pa.string()),
        ("role", pa.string()),  # threshold (where indexes are chosen), held_out or trace
        ("context", pa.int32()),  # queries lie in the last part before this position
        (
            "certificate",
            pa.string(),
        ),  # topk (FER = 0), mass (dropped mass at most target), calibrated (statistical)
        ("target", pa.float32()),  # dropped mass, or the FER aimed at; 0 for topk
        ("index", pa.string()),
        ("mode", pa.string()),  # grown: a block at once, then chunks; appended: chunks alone
        ("chosen_for_reads", pa.bool_()),  # the KV head's index by threshold texts
        ("chosen_for_bytes", pa.bool_()),
        ("queries", pa.int32()),
        ("keys", pa.float32()),  # cold keys, mean over queries like all below
        ("anchor_bytes", pa.float32()),
        ("anchors", pa.float32()),
        ("records", pa.float32()),  # keys of which a record was read
        ("reads", pa.float32()),  # anchors and records
        ("flat_reads", pa.float32()),
        ("reads_ratio", pa.float32()),  # reads over flat_reads
        (
            "level_ratio",
            pa.float32(),
        ),  # anchors and levels of records, over the flat scan's levels; null for mass
        (
            "scan_ratio",
            pa.float32(),
        ),  # bytes of anchors and record levels, over the flat scan's; null for mass
        ("bytes_ratio", pa.float32()),  # everything read over full K and V in float16
        ("flat_bytes_ratio", pa.float32()),
        ("bytes_ratio_gqa", pa.float32()),  # read once a group; null for mass
        ("flat_bytes_ratio_gqa", pa.float32()),
        ("elimination", pa.float32()),
        ("flat_elimination", pa.float32()),
        ("fer", pa.float32()),  # exact top-k keys left out; null for mass
        ("share", pa.float32()),  # of the margins that is kept; 1 for certificates
        ("violations", pa.int64()),  # queries that break the certificate; for calibrated: that miss a key
    ]
)
CHECK_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("kv_head", pa.int16()),
        ("text", pa.string()),
        ("context", pa.int32()),
        ("index", pa.string()),
        ("mode", pa.string()),
        ("bound", pa.string()),  # ball, cone, box or wide
        # leaf, coarse: every member's float64 score is at most its anchor's bound; topk, mass: the certificate holds.
        ("what", pa.string()),
        ("checks", pa.int64()),
        ("violations", pa.int64()),
    ]
)
SCHEMAS = {"heads": HEAD_SCHEMA, "checks": CHECK_SCHEMA}
