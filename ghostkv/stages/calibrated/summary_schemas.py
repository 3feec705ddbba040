"""Columns of the tables that the calibrated points of all layers are summed up in."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.files.seals import MAY_BE_EMPTY
from ghostkv.stages.calibrated.schemas import DESIGN, GOAL

SUMMARY_SCHEMA = pa.schema(
    [*DESIGN[3:], ("decision", pa.string()), *GOAL, ("domain", pa.string())]  # domain "all" pools them
    + [("guaranteed_if_exchangeable", pa.bool_()), ("floor", pa.float32()), ("heads", pa.int32())]
    # What the threshold queries are worth of other texts, and the floor of that; null where they were not compared
    + [("effective_queries", pa.float64()), ("effective_floor", pa.float64())]
    + [("achieved", pa.float64()), ("achieved_worst_head", pa.float64())]
    + [("worst_layer", pa.int16()), ("worst_head", pa.int16())]
    + [("heads_under", pa.float64())]  # share of heads whose risk, pooled over texts, is within the target
    + [("head_texts_under", pa.float64())]  # share of (head, text) pairs
    + [(name, pa.float64()) for name in ("elimination", "elimination_worst_head", "fer", "dropped_mass_mean")]
    + [(name, pa.float64()) for name in ("output_error_mean", "output_error_compensated_mean")]
    + [(name, pa.float64()) for name in ("bytes_ratio", "bytes_ratio_gqa")]
)
DEPENDENCE_SCHEMA = pa.schema(
    [*DESIGN[3:], *GOAL, ("role", pa.string()), ("heads", pa.int32()), ("texts", pa.int32())]
    + [("queries", pa.int32()), ("correlation", pa.float64()), ("design_effect", pa.float64())]
    + [("effective_queries", pa.float64()), ("floor", pa.float64()), ("effective_floor", pa.float64())]
    + [("high_floor", pa.float64())]  # the same with high probability instead of on average
    + [("text_floor", pa.float64()), ("text_risk_worst", pa.float64())]
)
VALIDITY_SCHEMA = pa.schema(
    [*DESIGN[3:], *GOAL, ("draw", pa.string()), ("method", pa.string())]
    + [("heads", pa.int32()), ("calibrations", pa.int32())]  # calibrations of each head
    + [("queries", pa.float64()), ("promising", pa.float64())]
    + [("above", pa.float64())]  # share of calibrations above the target, mean over heads
    + [("allowed", pa.float64())]  # what the theory allows of it; null where it bounds the mean risk alone
    + [
        ("risk", pa.float64()),
        ("target_excess", pa.float64()),
    ],  # mean over calibrations and heads; less the target
    metadata=MAY_BE_EMPTY,
)
SURELY_SCHEMA = pa.schema(
    [*DESIGN[3:], ("method", pa.string()), *GOAL, ("heads", pa.int32()), ("floor", pa.float64())]
    + [
        (name, pa.float64())
        for name in ("achieved", "heads_under", "elimination", "bytes_ratio", "bytes_ratio_gqa")
    ],
    metadata=MAY_BE_EMPTY,
)
ALIKE_SCHEMA = pa.schema(
    [*DESIGN[3:], *GOAL, ("heads", pa.int32()), ("texts", pa.int32())]
    # Heads for which it is rejected that queries do not depend on their text, and that the two roles lose alike
    + [("rejected_queries", pa.int32()), ("rejected_roles", pa.int32())]
    + [("p_roles", pa.float64()), ("p_least", pa.float64())]  # all heads together; the least that is possible
    + [("threshold_mean", pa.float64()), ("held_out_mean", pa.float64())],
    metadata=MAY_BE_EMPTY,
)
ALARM_SCHEMA = pa.schema(
    [*DESIGN[3:], *GOAL, ("calibrated_on", pa.string()), ("tested_on", pa.string()), ("text", pa.string())]
    + [("steps", pa.int32()), ("risk_mean", pa.float64()), ("evidence", pa.float64())]  # the largest
    + [("alarm", pa.int32())],  # step of the alarm; null for none
    metadata=MAY_BE_EMPTY,
)
SUMMARY_SCHEMAS = {
    "summary": SUMMARY_SCHEMA,
    "dependence": DEPENDENCE_SCHEMA,
    "validity": VALIDITY_SCHEMA,
    "surely": SURELY_SCHEMA,
    "alike": ALIKE_SCHEMA,
    "alarms": ALARM_SCHEMA,
}
