"""Columns of the tables that a text's job of `quality` writes, and what each means."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY
from ghostkv.runtime.writing import WRITING_SCHEMA

_RUN = [("text", pa.string()), ("domain", pa.string()), ("policy", pa.string())]
# One row a text, policy and position of the continuation.
POSITION_SCHEMA = pa.schema(
    [
        *_RUN,
        ("position", pa.int32()),  # of the token that is read
        ("kl", pa.float64()),  # KL(dense || sparse), nats
        ("agree", pa.bool_()),  # same most probable token
        ("dense_nll", pa.float64()),  # nats; null where the text ends
        ("sparse_nll", pa.float64()),
        ("max_logit_difference", pa.float64()),
        ("dense_entropy", pa.float64()),
        ("dense_margin", pa.float64()),  # log-probability of first choice over second
        ("token", pa.string()),  # the token that is read
        ("dense_top", pa.string()),  # most probable next token
        ("sparse_top", pa.string()),
    ]
)
# What was read: one row a text, policy and layer.
TRAFFIC_SCHEMA = pa.schema(
    [
        *_RUN,
        ("layer", pa.int16()),
        ("dense", pa.bool_()),  # the policy leaves this layer alone
        ("dense_share", pa.float64()),  # of its full bytes, what belongs to KV heads that stay dense
        ("kept_fraction", pa.float64()),  # keys read / keys visible, mean over heads and queries
        ("bytes_ratio", pa.float64()),  # per head
        ("bytes_ratio_gqa", pa.float64()),  # records once a KV head, survivors united over its heads
        ("certified", pa.float64()),  # largest dropped mass that a certificate admits; null without one
        ("violated", pa.int64()),  # queries of a head whose certificate did not hold
    ]
)
# One row a text and policy: the whole model, dense layers included.
RUN_SCHEMA = pa.schema(
    [
        *_RUN,
        ("kind", pa.string()),  # identity, certified, ours, oracle, peer
        ("family", pa.string()),  # policies that differ in bytes alone
        ("target", pa.float64()),  # the bytes ratio or mass that was asked for
        ("dense_layers", pa.int16()),
        ("kept_fraction", pa.float64()),
        ("bytes_ratio", pa.float64()),
        ("bytes_ratio_gqa", pa.float64()),
        ("certificate", pa.string()),
        ("prefill", pa.string()),  # how the context was read: dense, or sparse under the policy
        ("certified", pa.float64()),  # the largest of all layers
        ("violated", pa.int64()),
        ("seconds", pa.float64()),  # of this run, on this machine
    ]
)
# The model with nothing eliminated against its own attention: largest differences of a logit. Two rows a text: its
# beginning, prefill included, and the first tokens of the continuation after the whole context.
IDENTITY_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("domain", pa.string()),
        ("context", pa.int32()),
        ("tokens", pa.int32()),  # decoded at once
        ("steps", pa.int32()),  # decoded one by one
        ("prefill_difference", pa.float64()),
        ("block_difference", pa.float64()),
        ("step_difference", pa.float64()),
        ("own_difference", pa.float64()),  # the model's own attention: one by one against at once
        ("bound", pa.float64()),  # a run that exceeds it in any of these ends there
        # Worst head and query: of an attention output to one recomputed in float32, relative to its norm. Bound: 1e-3
        ("attention_difference", pa.float64()),
    ]
)
ABLATION_SCHEMA = pa.schema(
    [
        *_RUN,
        ("first_layer", pa.int16()),  # the only layers that eliminate
        ("last_layer", pa.int16()),
        ("kl", pa.float64()),
        ("top1", pa.float64()),
        ("positions", pa.int32()),
        ("bytes_ratio_gqa", pa.float64()),  # of these layers alone
    ],
    metadata=MAY_BE_EMPTY,
)
THETA_SCHEMA = pa.schema(
    [("policy", pa.string()), ("ratio", pa.float64()), ("theta", pa.float64())], metadata=MAY_BE_EMPTY
)
# KV heads that stay dense in policies that promise something of each head: elimination would save nothing there.
DENSE_SCHEMA = pa.schema(
    [
        ("policy", pa.string()),
        ("layer", pa.int16()),
        ("kv_head", pa.int16()),
        ("bytes_ratio_gqa", pa.float64()),  # of elimination on the threshold texts, at least 1
    ],
    metadata=MAY_BE_EMPTY,
)
# What each text's job leaves.
TEXT_TABLES = {
    "identity": IDENTITY_SCHEMA,
    "positions": POSITION_SCHEMA,
    "traffic": TRAFFIC_SCHEMA,
    "runs": RUN_SCHEMA,
    "ablation": ABLATION_SCHEMA,
    "generations": WRITING_SCHEMA.with_metadata(MAY_BE_EMPTY),
}
# What is fitted before any text is decoded.
FIT_TABLES = {"thetas": THETA_SCHEMA, "dense": DENSE_SCHEMA}
