"""All layers of the calibrated points, what they achieved, how dependent the queries are, and what promises are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.io import read_table, write_table
from ghostkv.files.tables import join
from ghostkv.stages.calibrated.schemas import LAYER_SCHEMAS
from ghostkv.stages.calibrated.summary_schemas import SUMMARY_SCHEMAS
from ghostkv.stages.calibrated.tables import summarise_dependence, summarise_points
from ghostkv.stages.calibrated.validity_tables import (
    summarise_alarms,
    summarise_alike,
    summarise_surely,
    summarise_validity,
)

if TYPE_CHECKING:
    from ghostkv.stages.calibrated.jobs import GatherCalibrated


def gather(job: GatherCalibrated, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers, and summarise them."""
    about = join(inputs, outputs, LAYER_SCHEMAS)
    layers = {name: read_table(outputs[name], schema) for name, schema in LAYER_SCHEMAS.items()}
    dependence = summarise_dependence(layers["texts"], job.validity.failure)
    found = {
        "summary": summarise_points(layers["calibrated"], dependence),
        "dependence": dependence,
        "validity": summarise_validity(layers["resampled"], job.validity),
        "surely": summarise_surely(layers["high_probability"]),
        "alike": summarise_alike(layers["exchangeability"], job.validity),
        "alarms": summarise_alarms(layers["monitored"], job.validity),
    }
    for name, table in found.items():
        write_table(table, outputs[name], SUMMARY_SCHEMAS[name], about)
