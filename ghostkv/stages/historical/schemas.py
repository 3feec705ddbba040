"""Columns of the tables of the historical experiment."""

from __future__ import annotations

import pyarrow as pa

SWEEP_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("head", pa.int16()),
        ("sketch_dim", pa.int16()),  # rows m of the projection
        *((name, pa.float64()) for name in ("theta", "elimination", "fer")),
        ("violation_rate", pa.float64()),  # keys whose exact score exceeds the "upper bound"
        ("queries", pa.int32()),
    ]
)
COMPARISON_SCHEMA = pa.schema(
    [
        ("direction", pa.string()),  # from_historical, from_correct; cumulative in the ablation
        ("step", pa.int16()),  # 0 is the protocol that the others start from
        ("knob", pa.string()),  # "none" in that row
        ("fault", pa.string()),
        ("remedy", pa.string()),
        ("elimination", pa.float64()),  # most at FER <= target, by head, with hindsight; mean over heads
        ("cold_share", pa.float64()),  # keys that may be eliminated at all, of those that a query sees
        ("eliminated_share", pa.float64()),  # elimination x cold_share: comparable between all rows
        ("elimination_one_theta", pa.float64()),  # the same with one theta for all heads; null if free
        ("safe_head_share", pa.float64()),  # heads with FER <= target and eliminated share >= 30 %
        ("oracle_elimination", pa.float64()),  # keeping the relevant keys and no more
        ("violation_rate", pa.float64()),  # cold keys whose exact score exceeds the upper bound
        ("rank_correlation", pa.float64()),  # Spearman, of estimate and exact score
        ("rank_correlation_uncentred", pa.float64()),  # as the predecessor computed it: 0.75 for noise
        ("relevant_agreement", pa.float64()),  # keys called relevant that are so to the model
        ("tokens", pa.float64()),  # mean keys that a query sees
        ("queries", pa.int32()),  # per head
        ("heads", pa.int32()),
    ]
)
SCHEMAS = {"sweep": SWEEP_SCHEMA, "ablation": COMPARISON_SCHEMA, "knobs": COMPARISON_SCHEMA}
