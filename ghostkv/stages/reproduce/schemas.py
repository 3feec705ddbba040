"""Columns of the tables of others, each repeated beside its published figures."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY

# Without a folder of the predecessor's files there is nothing to repeat.
PREDECESSOR_SCHEMA = pa.schema(
    [
        ("tokens", pa.int32()),
        ("layer", pa.int16()),
        ("head", pa.int16()),
        ("sketch_dim", pa.int16()),
        ("theta", pa.float64()),
        ("measure", pa.string()),  # a column of metrics.csv
        ("ours", pa.float64()),
        ("theirs", pa.float64()),
        ("difference", pa.float64()),  # ours - theirs
        # Rounding the tensors to float16 decides this figure: the published one comes out for some of the tensors that round
        # to the files.
        ("undecided", pa.bool_()),
    ],
    metadata=MAY_BE_EMPTY,
)
RECALL_SCHEMA = pa.schema(
    [
        (
            "protocol",
            pa.string(),
        ),  # published: as Louver's authors measured; fair: causal, and everything that is read counted
        ("method", pa.string()),
        ("k", pa.int32()),
        ("text", pa.string()),
        ("domain", pa.string()),
        ("layer", pa.int16()),
        ("queries", pa.int32()),  # of all heads
        ("recall", pa.float64()),  # share of the exact top-k keys that are returned
        ("candidates", pa.float64()),  # keys that are returned, over the keys that there are
        # Bytes of the index and of the K and V of what is returned, over the K and V of all keys, as float16.
        ("bytes_ratio", pa.float64()),
        ("theirs", pa.float64()),  # recall on Llama-3.2-3B; null where none is published
    ]
)
ERROR_SCHEMA = pa.schema(
    [
        (
            "frame",
            pa.string(),
        ),  # scaled: sinks and window as the same share of the context; literal: 128 and 128 tokens
        ("method", pa.string()),
        (
            "variant",
            pa.string(),
        ),  # of the method's search, and what sets a variant's density: see its class in `skylight/`
        ("setting", pa.float64()),
        ("text", pa.string()),
        ("domain", pa.string()),
        ("calls", pa.int32()),  # layers times queries
        ("density", pa.float64()),
        ("error", pa.float64()),
    ],
    metadata=MAY_BE_EMPTY,  # without values no attention has an output
)
BOARD_SCHEMA = pa.schema(
    [
        ("frame", pa.string()),
        ("method", pa.string()),
        ("density", pa.float64()),
        ("texts", pa.int32()),
        ("calls", pa.int32()),
        (
            "ours",
            pa.float64(),
        ),  # error at that density, between settings by interpolation; null out of their range
        ("theirs", pa.float64()),  # null where none is published
        (
            "source",
            pa.string(),
        ),  # board: average over tasks and two models; qa_2: Llama-3.1-8B on that task of RULER
        ("rank_ours", pa.float64()),  # among the methods of frame, density and source; null where one lacks
        ("rank_theirs", pa.float64()),
    ],
    metadata=MAY_BE_EMPTY,
)
CHARACTER_SCHEMA = pa.schema(
    [
        (
            "components",
            pa.int16(),
        ),  # of a query, that SparQ reads of every key; null where the model reads all
        ("text", pa.string()),
        ("domain", pa.string()),
        ("context", pa.int32()),  # tokens that are read densely
        ("tokens", pa.int32()),  # that are foretold
        ("characters", pa.int32()),  # of those
        ("bits", pa.float64()),  # per character
        ("bytes_ratio_gqa", pa.float64()),
        ("theirs", pa.float64()),  # bits per character of Pythia-410m
    ],
    metadata=MAY_BE_EMPTY,  # of imported tensors there is no model
)
PREDECESSOR_SCHEMAS = {"predecessor": PREDECESSOR_SCHEMA}
RECALL_SCHEMAS = {"recall": RECALL_SCHEMA}
ERROR_SCHEMAS = {"errors": ERROR_SCHEMA, "board": BOARD_SCHEMA}
CHARACTER_SCHEMAS = {"characters": CHARACTER_SCHEMA}
SCHEMAS = PREDECESSOR_SCHEMAS | RECALL_SCHEMAS | ERROR_SCHEMAS | CHARACTER_SCHEMAS
