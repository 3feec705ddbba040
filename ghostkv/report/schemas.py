"""The columns of every table that the report reads."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from ghostkv.captures.capture_files import LAYER_SCHEMA
from ghostkv.elimination.schemas import CONTEXT_SCHEMA
from ghostkv.runtime.writing import WRITING_SCHEMA
from ghostkv.sources.texts import TEXT_SCHEMA
from ghostkv.stages.bandwidth import schemas as bandwidth
from ghostkv.stages.benchmark import schemas as benchmark
from ghostkv.stages.calibrated import schemas as calibrated
from ghostkv.stages.calibrated import summary_schemas as calibrated_summaries
from ghostkv.stages.certificates import schemas as certificates
from ghostkv.stages.decode import schemas as decode
from ghostkv.stages.frontier import schemas as frontier
from ghostkv.stages.frontier import summary_schemas as frontier_summaries
from ghostkv.stages.hierarchy import schemas as hierarchy
from ghostkv.stages.hierarchy import summary_schemas as hierarchy_summaries
from ghostkv.stages.historical import schemas as historical
from ghostkv.stages.peers import schemas as peers
from ghostkv.stages.peers import summary_schemas as peers_summaries
from ghostkv.stages.plan import schemas as plan
from ghostkv.stages.quality import schemas as quality
from ghostkv.stages.quality import summary_schemas as quality_summaries
from ghostkv.stages.reproduce import schemas as reproduce
from ghostkv.stages.retrieval import schemas as retrieval
from ghostkv.stages.retrieval import summary_schemas as retrieval_summaries
from ghostkv.stages.speed import schemas as speed
from ghostkv.stages.store import schemas as store
from ghostkv.stages.synthetic import schemas as synthetic
from ghostkv.stages.synthetic import summary_schemas as synthetic_summaries

SCHEMAS: Mapping[str, Mapping[str, pa.Schema]] = {
    "bandwidth": {"losses": bandwidth.LOSS_SCHEMA} | bandwidth.MEASURED_SCHEMAS | bandwidth.MODEL_SCHEMAS,
    # Of the run that `report.beside` names.
    "beside": {"certificates": certificates.CONTEXT_SCHEMA, "frontier": CONTEXT_SCHEMA},
    "benchmark": {
        "sweep_speed": benchmark.SPEED_SCHEMA,
        "capture_overhead": benchmark.OVERHEAD_SCHEMA,
    },
    "calibrated": calibrated.LAYER_SCHEMAS | calibrated_summaries.SUMMARY_SCHEMAS,
    "capture": {"layers": LAYER_SCHEMA},
    "certificates": certificates.SCHEMAS,
    "decode": decode.SCHEMAS | decode.OVERLAP_SCHEMAS,
    "demo": {"writing": WRITING_SCHEMA},
    "frontier": frontier.LAYER_SCHEMAS | frontier_summaries.SUMMARY_SCHEMAS,
    "hierarchy": hierarchy.SCHEMAS | hierarchy_summaries.SUMMARY_SCHEMAS,
    "historical": historical.SCHEMAS,
    "peers": peers.LAYER_SCHEMAS | peers_summaries.SUMMARY_SCHEMAS,
    "plan": plan.COMPARED_SCHEMAS,
    "quality": quality.FIT_TABLES | quality.TEXT_TABLES | quality_summaries.SUMMARY_TABLES,
    "reproduce": reproduce.SCHEMAS,
    "retrieval": {
        "answers": retrieval.ANSWER_SCHEMA,
        "cells": retrieval_summaries.CELL_SCHEMA,
        "summary": retrieval_summaries.SUMMARY_SCHEMA,
    },
    "speed": {"layers": speed.LAYER_SCHEMA, "steps": speed.STEP_SCHEMA},
    "store": store.TRIAL_SCHEMAS | store.TIME_SCHEMAS,
    "synthetic": synthetic.SCHEMAS | synthetic_summaries.SUMMARY_SCHEMAS,
    "texts": {"texts": TEXT_SCHEMA},
}
