"""Columns of the tables that `retrieval` derives from all answers."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY
from ghostkv.stages.retrieval.schemas import KEYS, WHO

_COUNTS = [
    ("n", pa.int32()),
    ("accuracy", pa.float64()),  # mean score
    ("right", pa.int32()),  # questions with the full score
    ("low", pa.float64()),  # 95 % Wilson interval of right / n
    ("high", pa.float64()),
    ("dense_accuracy", pa.float64()),  # on the same questions
    ("measurable", pa.bool_()),  # of the task at this length
    ("bytes_ratio_gqa", pa.float64()),
    ("bytes_ratio", pa.float64()),
]
CELL_SCHEMA = pa.schema([*KEYS, ("depth", pa.float64()), *WHO, *_COUNTS], metadata=MAY_BE_EMPTY)
SUMMARY_SCHEMA = pa.schema(
    [
        *KEYS,  # length 0: pooled over lengths
        *WHO,
        *_COUNTS,
        ("contexts", pa.int32()),
        ("exact_low", pa.float64()),  # 95 % Clopper-Pearson interval of right / n
        ("exact_high", pa.float64()),
        ("relative_accuracy", pa.float64()),  # null where not measurable
        ("relative_low", pa.float64()),
        ("relative_high", pa.float64()),
        ("lost", pa.int32()),  # dense right, policy wrong
        ("won", pa.int32()),
        ("mcnemar_p", pa.float64()),
    ]
)
