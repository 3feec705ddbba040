"""All layers of the calibrated points, what they achieved, and how dependent the queries are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.files.tables import concatenate
from ghostkv.stages.calibrated.summary_schemas import DEPENDENCE_SCHEMA, SUMMARY_SCHEMA
from ghostkv.stages.calibrated.tables import summarise_dependence, summarise_points

if TYPE_CHECKING:
    from ghostkv.stages.calibrated.jobs import GatherCalibrated


def gather(job: GatherCalibrated, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers, and summarise them.

    Parameters
    ----------
    inputs : mapping
        For each table of `calibrate_layer` the layers' files, in order.
    outputs : mapping
        Paths of those, and of `summary` and `dependence`.
    """
    metadata = read_metadata(inputs["calibrated"][0])
    for table, files in inputs.items():
        concatenate(files, outputs[table], metadata)
    summary = summarise_points(read_table(outputs["calibrated"]))
    write_table(summary, outputs["summary"], SUMMARY_SCHEMA, metadata)
    dependence = summarise_dependence(read_table(outputs["texts"]))
    write_table(dependence, outputs["dependence"], DEPENDENCE_SCHEMA, metadata)
