"""Columns of the tables that a layer of the frontier writes."""

from __future__ import annotations

import pyarrow as pa

from ghostkv.elimination.schemas import BOUND_SCHEMA, CONTEXT_SCHEMA, METRICS, POINT_KEYS, POINT_SCHEMA

SWEEP_SCHEMA = pa.schema(POINT_KEYS + METRICS)

LAYER_SCHEMAS = {
    "sweep": SWEEP_SCHEMA,
    "points": POINT_SCHEMA,
    "context": CONTEXT_SCHEMA,
    "bounds": BOUND_SCHEMA,
}
