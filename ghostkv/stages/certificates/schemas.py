"""Columns of the tables that a layer of the certificates writes."""

from __future__ import annotations

import pyarrow as pa

# The design whose record is read level by level.
NESTED = "nested"
# The one whose promises hold but for a stated probability.
DITHERED = "dithered"
CERTIFICATE_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("head", pa.int16()),
        ("kv_head", pa.int16()),
        (
            "design",
            pa.string(),
        ),  # "nested" is the cascade, "dithered" the randomised certificate, others are one level
        (
            "storage",
            pa.string(),
        ),  # nested: K is the record and its last planes; additive: float16 K beside it
        ("record_bytes", pa.float32()),  # all levels of the cascade
        ("certificate", pa.string()),  # topk or mass
        ("target", pa.float32()),  # dropped mass; 0 for topk, whose FER is 0
        # head: each leaves out what it may; group: its heads leave out the same keys, each within its own target
        ("decision", pa.string()),
        # Probability that the promise is broken for a head and query, over the codec's coins; 0 for arithmetic.
        ("failure", pa.float64()),
        ("text", pa.string()),
        ("domain", pa.string()),
        ("queries", pa.int32()),
        ("elimination", pa.float32()),  # cold keys never read: bounds on their records ruled them out
        ("values_unread", pa.float32()),  # also those that their K in full ruled out before V was read
        ("oracle_elimination", pa.float32()),  # exact scores at the same target
        ("bytes_ratio", pa.float32()),
        ("bytes_ratio_gqa", pa.float32()),
        # Of the cascade, K and V alone: what exact scores keep of each head, and of what its heads keep in all; and what the
        # certificate keeps where the group decides.
        ("oracle_bytes_ratio", pa.float32()),
        ("oracle_bytes_ratio_gqa", pa.float32()),
        ("kept_bytes_ratio_gqa", pa.float32()),
        # The codec's arrays as its file has them, once a KV head and step, over the full K and V of the query's context; in no other
        # column. Only of the cascade.
        ("constants_bytes_ratio", pa.float32()),
        ("dropped_mass_mean", pa.float32()),
        ("dropped_mass_max", pa.float32()),
        ("certified_mass_mean", pa.float32()),  # null for topk
        # of the compensated output, relative to ||o||; null without values, and for topk
        ("output_error_mean", pa.float32()),
        ("output_error_bound_mean", pa.float32()),  # certified, relative to ||o||
        ("fallback", pa.float32()),  # keys a query that stopped early and were read after all
        ("checks", pa.int64()),  # keys left out (topk) or queries (mass) verified
        ("violations", pa.int64()),
    ]
)
# The cascade and the randomised certificate in nested storage by the queries' position, which is their context.
CONTEXT_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("window", pa.int32()),  # keys that the layer sees; 0 for all
        ("head", pa.int16()),
        ("kv_head", pa.int16()),
        ("design", pa.string()),  # these four as above
        ("certificate", pa.string()),
        ("target", pa.float32()),
        ("decision", pa.string()),
        ("text", pa.string()),
        ("domain", pa.string()),
        ("band_start", pa.int32()),
        ("band_stop", pa.int32()),
        ("queries", pa.int32()),
        ("cold_keys", pa.float32()),
        ("elimination", pa.float32()),  # these five as above
        ("values_unread", pa.float32()),
        ("oracle_elimination", pa.float32()),
        ("bytes_ratio", pa.float32()),
        ("bytes_ratio_gqa", pa.float32()),
    ]
)
CHECK_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("kv_head", pa.int16()),
        ("text", pa.string()),
        ("domain", pa.string()),
        ("design", pa.string()),
        # margin: a (query, key) pair's score within its bounds; topk: a key left out lies outside the exact top-k;
        # mass: a query's dropped mass within its target; output: its output error within the certified bound.
        ("what", pa.string()),
        ("level", pa.int16()),  # of the record, counted from 1; null where it does not apply
        ("checks", pa.int64()),
        ("violations", pa.int64()),
    ]
)
SCHEMAS = {"certificates": CERTIFICATE_SCHEMA, "context": CONTEXT_SCHEMA, "checks": CHECK_SCHEMA}
