"""All layers of the calibrated points, what they achieved, and how dependent the queries are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.files.tables import concatenate
from ghostkv.stages.calibrated.tables import (
    DEPENDENCE_SCHEMA,
    SUMMARY_SCHEMA,
    summarise_dependence,
    summarise_points,
)


def gather(layers: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers, and summarise them.

    Parameters
    ----------
    layers : mapping
        For each table of `calibrate_layer` the layers' files, in order.
    outputs : mapping
        Paths of those, and of `summary` and `dependence`.
    """
    metadata = read_metadata(layers["calibrated"][0])
    for table, files in layers.items():
        concatenate(files, outputs[table], metadata)
    summary = summarise_points(read_table(outputs["calibrated"]))
    write_table(summary, outputs["summary"], SUMMARY_SCHEMA, metadata)
    dependence = summarise_dependence(read_table(outputs["texts"]))
    write_table(dependence, outputs["dependence"], DEPENDENCE_SCHEMA, metadata)
