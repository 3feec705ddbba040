"""What all layers together say of each head.

Apart from their gathering, so that another summary leaves the tables alone that other stages read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ghostkv.elimination.schemas import POINT_SCHEMA
from ghostkv.files.io import read_table, write_table
from ghostkv.files.provenance import inherited
from ghostkv.stages.frontier.summary_schemas import LAYER_HEAD_SCHEMA, SAFE_SCHEMA
from ghostkv.stages.frontier.tables import layer_head, safe_points

if TYPE_CHECKING:
    from ghostkv.stages.frontier.jobs import SummariseHeads


def summarise_heads(job: SummariseHeads, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Derive the tables per head from the `points` of all layers."""
    about = inherited(inputs["points"], job.code)
    points, safe = read_table(inputs["points"], POINT_SCHEMA), job.safe
    write_table(safe_points(points, safe.fer, safe.elimination), outputs["safe_points"], SAFE_SCHEMA, about)
    write_table(layer_head(points), outputs["layer_head"], LAYER_HEAD_SCHEMA, about)
