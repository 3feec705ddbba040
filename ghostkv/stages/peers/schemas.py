"""Columns of the tables that a layer of the peers writes."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY

KEYS = [
    ("layer", pa.int16()),
    ("selector", pa.string()),
    ("variant", pa.string()),  # hyperparameters; of ours empty
    (
        "kind",
        pa.string(),
    ),  # oracle, peer, record (one size of ours) or ours (the size chosen on threshold texts)
    ("column", pa.string()),  # how the index is spent: alone, one_budget or compensated
    ("text", pa.string()),
    ("domain", pa.string()),
    ("ratio", pa.float64()),  # the budget
    ("feasible", pa.bool_()),  # false: index and kept keys alone exceed the budget, metrics are null
    ("queries", pa.int32()),
]
MEANS = (
    "recall_32", "fer", "dropped_mass", "output_error", "bytes_ratio_gqa", "index_ratio", "constant_ratio",
)  # fmt: skip
METRICS = [
    (name, pa.float32())
    for name in (
        "recall_32",
        "fer",
        "dropped_mass_mean",
        "dropped_mass_p99",
        "output_error_mean",
        "output_error_p99",
        "bytes_ratio_gqa",
        "index_ratio",
        # What is fixed before a text is seen (codebooks, frames), read once a step, over the full K and V of one sequence.
        # It is in no budget: a server reads it once for all sequences of a batch.
        "constant_ratio",
    )
]
PEER_SCHEMA = pa.schema([*KEYS, ("head", pa.int16()), ("kv_head", pa.int16()), *METRICS])
# One row a layer and text: its queries pooled over heads, so that a p99 is one of all of them.
LAYER_SCHEMA = pa.schema([*KEYS, ("heads", pa.int16()), *METRICS, ("output_error_worst_head", pa.float32())])
# Which size of ours each KV head takes, as threshold texts said.
CHOICE_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("kv_head", pa.int16()),
        ("column", pa.string()),
        ("ratio", pa.float64()),
        ("variant", pa.string()),
        (
            "loss",
            pa.float32(),
        ),  # output error on threshold texts; of captures without values the dropped mass
    ],
    metadata=MAY_BE_EMPTY,
)
LAYER_SCHEMAS = {"peers": PEER_SCHEMA, "layers": LAYER_SCHEMA, "choice": CHOICE_SCHEMA}
