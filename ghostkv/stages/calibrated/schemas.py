"""Columns of the tables that a layer of the calibrated points writes."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.elimination.schemas import BOUND_SCHEMA
from ghostkv.files.seals import MAY_BE_EMPTY

DESIGN = [
    ("layer", pa.int16()),
    ("head", pa.int16()),
    ("kv_head", pa.int16()),
    ("codec", pa.string()),
    ("code_bytes", pa.int16()),
    ("record_bytes", pa.int16()),
    ("rule", pa.string()),
]
GOAL = [
    ("target_metric", pa.string()),  # fer, dropped_mass, output_error
    ("compensation", pa.string()),  # none, mean, pages
    ("target", pa.float32()),
]
_PROMISE = [
    ("guaranteed_if_exchangeable", pa.bool_()),  # conformal risk control holds for exchangeable queries
    ("floor", pa.float32()),  # 1 / (n + 1)
    ("calibration_queries", pa.int32()),  # n
    ("theta", pa.float32()),  # null: nothing is eliminated
]
_METRICS = [
    (name, pa.float32())
    for name in (
        "achieved",  # mean of the risk that the goal bounds
        "elimination",
        "fer",
        "fer_cold",
        "dropped_mass_mean",
        "dropped_mass_p99",
        "output_error_mean",
        "output_error_p99",
        "output_error_compensated_mean",
        "output_error_pages_mean",
        "bytes_ratio",
        "bytes_ratio_gqa",
    )
]
_TEXT = [("text", pa.string()), ("domain", pa.string()), ("queries", pa.int32())]
POINT_SCHEMA = pa.schema([*DESIGN, ("decision", pa.string()), *GOAL, *_PROMISE, *_TEXT, *_METRICS])
BAND_SCHEMA = pa.schema(
    [*DESIGN, *GOAL, *_PROMISE, *_TEXT]
    + [("band_start", pa.int32()), ("band_stop", pa.int32()), ("cold_keys", pa.float32()), *_METRICS]
)
HIGH_SCHEMA = pa.schema(
    [*DESIGN, ("method", pa.string()), *GOAL, *_PROMISE, *_TEXT, *_METRICS], metadata=MAY_BE_EMPTY
)
RESAMPLED_SCHEMA = pa.schema(
    [*DESIGN, *GOAL, ("draw", pa.string()), ("method", pa.string())]
    + [("queries", pa.float32())]  # of a calibration, mean
    + [("promising", pa.float32())]  # share of calibrations that can promise the target at all
    + [("above", pa.float32())]  # share of calibrations whose risk is above the target
    + [("risk", pa.float32())],  # mean over calibrations
    metadata=MAY_BE_EMPTY,
)
EXCHANGEABILITY_SCHEMA = pa.schema(
    [*DESIGN, *GOAL, *_TEXT, ("role", pa.string())]
    + [("risk_mean", pa.float64())]  # at the theta that all measured texts together choose
    # That queries do not depend on their text; the same for all texts of a head
    + [("p_queries", pa.float64())],
    metadata=MAY_BE_EMPTY,
)
MONITORED_SCHEMA = pa.schema(
    [*(one for one in DESIGN if one[0] != "head"), *GOAL]
    + [("calibrated_on", pa.string()), ("text", pa.string()), ("domain", pa.string())]
    + [("positions", pa.list_(pa.int32()))]  # of the queries, ascending
    + [("losses", pa.list_(pa.float32()))],  # of each query in order, mean over the group's heads
    metadata=MAY_BE_EMPTY,
)
CROSS_SCHEMA = pa.schema(
    [*DESIGN, *GOAL, *_PROMISE]
    + [("method", pa.string())]  # conformal; plug_in where the floor lies above the target
    + [("calibrated_on", pa.string()), ("tested_on", pa.string()), ("queries", pa.int32())]
    + [("achieved", pa.float32()), ("elimination", pa.float32())],
    metadata=MAY_BE_EMPTY,
)
TEXT_SCHEMA = pa.schema(
    [*DESIGN, *GOAL, ("text", pa.string()), ("domain", pa.string()), ("role", pa.string())]
    + [("queries", pa.int32()), ("risk_mean", pa.float64()), ("risk_variance", pa.float64())]
)
LEARNED_SCHEMA = pa.schema(
    [*BOUND_SCHEMA]
    + [("loss_first", pa.float32()), ("loss_last", pa.float32()), ("steps", pa.int32())],  # 0: not trained
    metadata=MAY_BE_EMPTY,
)
LAYER_SCHEMAS = {
    "calibrated": POINT_SCHEMA,
    "bands": BAND_SCHEMA,
    "high_probability": HIGH_SCHEMA,
    "resampled": RESAMPLED_SCHEMA,
    "exchangeability": EXCHANGEABILITY_SCHEMA,
    "monitored": MONITORED_SCHEMA,
    "cross_domain": CROSS_SCHEMA,
    "texts": TEXT_SCHEMA,
    "learned": LEARNED_SCHEMA,
}
