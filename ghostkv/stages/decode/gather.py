"""All layers of the decode in one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.tables import join
from ghostkv.stages.decode.schemas import SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.decode.jobs import GatherDecode


def gather(job: GatherDecode, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers and the generated decodes; the first file of each table lends its metadata."""
    join(inputs, outputs, SCHEMAS)
