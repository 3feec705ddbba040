"""Columns of the tables that plan and tasks of `retrieval` write, and what each means."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY

DENSE = "dense"
SAMPLE_SCHEMA = pa.schema(
    [
        ("job", pa.string()),  # {task}_{length}
        ("task", pa.string()),
        ("length", pa.int32()),
        ("context_number", pa.int16()),
        ("question_number", pa.int16()),
        ("depth", pa.float64()),  # share of the text before the needle; null where there is no single place
        ("context", pa.string()),
        ("question", pa.string()),
        ("answer_start", pa.string()),
        ("draft", pa.string()),
        ("references", pa.list_(pa.string())),
        ("rule", pa.string()),  # all: share of references found; part: any of them
        ("limit", pa.int32()),  # tokens of an answer, RULER's own
    ]
)
THETA_SCHEMA = pa.schema([("label", pa.string()), ("theta", pa.float64())], metadata=MAY_BE_EMPTY)
KEYS = [("task", pa.string()), ("length", pa.int32())]
WHO = [
    ("policy", pa.string()),  # label; "dense" for the model itself
    ("kind", pa.string()),  # dense, ours, peer or oracle
    ("certificate", pa.string()),
    ("prefill", pa.string()),
]
ANSWER_SCHEMA = pa.schema(
    [
        *KEYS,
        ("context_number", pa.int16()),
        ("question_number", pa.int16()),
        ("depth", pa.float64()),
        ("tokens", pa.int32()),  # of the prompt
        *WHO,
        ("score", pa.float64()),
        ("answer", pa.string()),
        ("references", pa.list_(pa.string())),
        ("answer_tokens", pa.int32()),
        ("forwards", pa.int32()),
        ("bytes_read", pa.float64()),  # GQA-true, over layers and the queries of question and answer
        ("bytes_full", pa.float64()),
        ("head_bytes_read", pa.float64()),
        ("head_bytes_full", pa.float64()),
    ]
)
