"""All layers of the frontier in one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.tables import join
from ghostkv.stages.frontier.schemas import LAYER_SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.frontier.jobs import GatherFrontier


def gather(job: GatherFrontier, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Concatenate the layers' tables, which inputs and outputs name."""
    join(inputs, outputs, LAYER_SCHEMAS)
