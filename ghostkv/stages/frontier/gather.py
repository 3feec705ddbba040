"""All layers of the frontier in one table each, and the tables per head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.io import read_table, write_table
from ghostkv.files.tables import join
from ghostkv.stages.frontier.summary_schemas import LAYER_HEAD_SCHEMA, SAFE_SCHEMA
from ghostkv.stages.frontier.tables import layer_head, safe_points

if TYPE_CHECKING:
    from ghostkv.stages.frontier.jobs import GatherFrontier


def gather(job: GatherFrontier, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Concatenate all layers and derive the tables per head."""
    about = join(inputs, outputs)
    points, safe = read_table(outputs["points"]), job.safe
    write_table(safe_points(points, safe.fer, safe.elimination), outputs["safe_points"], SAFE_SCHEMA, about)
    write_table(layer_head(points), outputs["layer_head"], LAYER_HEAD_SCHEMA, about)
