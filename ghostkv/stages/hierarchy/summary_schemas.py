"""Columns of the fits over all layers."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY

FIT_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("head", pa.int16()),
        ("kv_head", pa.int16()),
        ("index", pa.string()),
        ("chosen_for", pa.string()),  # reads or bytes
        ("measure", pa.string()),  # reads: anchors and records; reads_ratio, bytes: hierarchical over flat
        ("points", pa.int32()),  # texts and context lengths
        ("texts", pa.int32()),
        ("factor", pa.float64()),  # measure = factor * keys ^ exponent
        ("exponent", pa.float64()),
        ("low", pa.float64()),  # 95 % Student interval of the exponent, over texts
        ("high", pa.float64()),
        ("longest", pa.float64()),  # most keys measured
        (
            "pays_from",
            pa.float64(),
        ),  # keys at which the ratio falls below 1 (reads_ratio: 1/2); null for never
    ],
    metadata=MAY_BE_EMPTY,
)
SUMMARY_SCHEMAS = {"fits": FIT_SCHEMA}
