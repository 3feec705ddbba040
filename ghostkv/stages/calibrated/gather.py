"""All layers of the calibrated points, what they achieved, and how dependent the queries are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.io import read_table, write_table
from ghostkv.files.tables import join
from ghostkv.stages.calibrated.schemas import LAYER_SCHEMAS
from ghostkv.stages.calibrated.summary_schemas import DEPENDENCE_SCHEMA, SUMMARY_SCHEMA
from ghostkv.stages.calibrated.tables import summarise_dependence, summarise_points

if TYPE_CHECKING:
    from ghostkv.stages.calibrated.jobs import GatherCalibrated


def gather(job: GatherCalibrated, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers, and summarise them."""
    about = join(inputs, outputs, LAYER_SCHEMAS)
    points, texts = (read_table(outputs[name], LAYER_SCHEMAS[name]) for name in ("calibrated", "texts"))
    dependence = summarise_dependence(texts)
    write_table(dependence, outputs["dependence"], DEPENDENCE_SCHEMA, about)
    write_table(summarise_points(points, dependence), outputs["summary"], SUMMARY_SCHEMA, about)
