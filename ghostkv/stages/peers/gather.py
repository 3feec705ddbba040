"""All layers of the peers, intervals over documents, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.files.tables import concatenate
from ghostkv.stages.peers.summary_schemas import COMPARISON_SCHEMA, SUMMARY_SCHEMA, VERDICT_SCHEMA
from ghostkv.stages.peers.tables import compare, summarise, verdicts

if TYPE_CHECKING:
    from ghostkv.stages.peers.jobs import GatherPeers


def gather(job: GatherPeers, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers, and derive summary, comparison and verdicts.

    Parameters
    ----------
    inputs : mapping
        Files of `peers` and `layers`, one a layer.
    outputs : mapping
        Paths of `peers`, `layers`, `summary`, `comparison`, `verdicts`.
    """
    metadata = read_metadata(inputs["peers"][0])
    for name, files in inputs.items():
        concatenate(files, outputs[name], metadata)
    peers, layers = (read_table(outputs[name]) for name in ("peers", "layers"))
    comparison = compare(peers)
    for name, table, schema in (
        ("summary", summarise(peers, layers), SUMMARY_SCHEMA),
        ("comparison", comparison, COMPARISON_SCHEMA),
        ("verdicts", verdicts(peers, comparison), VERDICT_SCHEMA),
    ):
        write_table(table, outputs[name], schema, metadata)
