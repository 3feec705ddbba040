"""All layers of the peers, intervals over documents, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.io import read_table, write_table
from ghostkv.files.tables import join
from ghostkv.stages.peers.schemas import LAYER_SCHEMAS
from ghostkv.stages.peers.summary_schemas import COMPARISON_SCHEMA, SUMMARY_SCHEMA, VERDICT_SCHEMA
from ghostkv.stages.peers.tables import compare, summarise, verdicts

if TYPE_CHECKING:
    from ghostkv.stages.peers.jobs import GatherPeers


def gather(job: GatherPeers, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers, and derive summary, comparison and verdicts."""
    about = join(inputs, outputs, LAYER_SCHEMAS)
    peers, layers = (read_table(outputs[name], LAYER_SCHEMAS[name]) for name in ("peers", "layers"))
    comparison = compare(peers)
    write_table(summarise(peers, layers), outputs["summary"], SUMMARY_SCHEMA, about)
    write_table(comparison, outputs["comparison"], COMPARISON_SCHEMA, about)
    write_table(verdicts(peers, comparison), outputs["verdicts"], VERDICT_SCHEMA, about)
