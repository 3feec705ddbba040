"""All layers of the peers, intervals over documents, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.files.tables import concatenate
from ghostkv.stages.peers.tables import (
    COMPARISON_SCHEMA,
    SUMMARY_SCHEMA,
    VERDICT_SCHEMA,
    compare,
    summarise,
    verdicts,
)


def gather(tables: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers, and derive summary, comparison and verdicts.

    Parameters
    ----------
    tables : mapping
        Files of `peers` and `layers`, one a layer.
    outputs : mapping
        Paths of `peers`, `layers`, `summary`, `comparison`, `verdicts`.
    """
    metadata = read_metadata(tables["peers"][0])
    for name, files in tables.items():
        concatenate(files, outputs[name], metadata)
    peers, layers = (read_table(outputs[name]) for name in ("peers", "layers"))
    comparison = compare(peers)
    for name, table, schema in (
        ("summary", summarise(peers, layers), SUMMARY_SCHEMA),
        ("comparison", comparison, COMPARISON_SCHEMA),
        ("verdicts", verdicts(peers, comparison), VERDICT_SCHEMA),
    ):
        write_table(table, outputs[name], schema, metadata)
