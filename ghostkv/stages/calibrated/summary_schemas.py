"""Columns of the tables that the calibrated points of all layers are summed up in."""

from __future__ import annotations

import pyarrow as pa

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
    + [("text_floor", pa.float64()), ("text_risk_worst", pa.float64())]
)
SUMMARY_SCHEMAS = {"summary": SUMMARY_SCHEMA, "dependence": DEPENDENCE_SCHEMA}
