"""All layers of the peers, intervals over documents, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.stages.peers.tables import (
    COMPARISON_SCHEMA,
    LAYER_SCHEMA,
    PEER_SCHEMA,
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
    peers, layers = (pl.concat([read_table(path) for path in tables[name]]) for name in ("peers", "layers"))
    comparison = compare(peers)
    for name, table, schema in (
        ("peers", peers, PEER_SCHEMA),
        ("layers", layers, LAYER_SCHEMA),
        ("summary", summarise(peers, layers), SUMMARY_SCHEMA),
        ("comparison", comparison, COMPARISON_SCHEMA),
        ("verdicts", verdicts(peers, comparison), VERDICT_SCHEMA),
    ):
        write_table(table, outputs[name], schema, metadata)
