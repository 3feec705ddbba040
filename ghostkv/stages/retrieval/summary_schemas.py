"""Columns of the tables that `retrieval` derives from all answers."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY
from ghostkv.stages.retrieval.schemas import KEYS, WHO

_COUNTS = [
    ("n", pa.int32()),
    ("accuracy", pa.float64()),  # mean score
    ("right", pa.int32()),  # questions with the full score
    ("low", pa.float64()),  # 95 % Wilson interval of right / n independent questions
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
        (
            "clustered_low",
            pa.float64(),
        ),  # 95 % interval of right / n; questions of one context are no independent ones
        ("clustered_high", pa.float64()),
        ("relative_accuracy", pa.float64()),  # null where not measurable
        ("relative_low", pa.float64()),  # likewise by context
        ("relative_high", pa.float64()),
        ("lost", pa.int32()),  # dense right, policy wrong
        ("won", pa.int32()),
        (
            "mcnemar_p",
            pa.float64(),
        ),  # of contexts on which the policy loses more than it wins, and the reverse
    ]
)
