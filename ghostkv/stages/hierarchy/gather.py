"""All layers of the hierarchy in one table each, and fits of its reads over the context's length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.io import read_table, write_table
from ghostkv.files.tables import join
from ghostkv.stages.hierarchy.schemas import SCHEMAS
from ghostkv.stages.hierarchy.summary_schemas import FIT_SCHEMA
from ghostkv.stages.hierarchy.tables import fits

if TYPE_CHECKING:
    from ghostkv.stages.hierarchy.jobs import GatherHierarchy


def gather(job: GatherHierarchy, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers and fit reads and bytes against the context length."""
    about = join(inputs, outputs, SCHEMAS)
    write_table(fits(read_table(outputs["heads"], SCHEMAS["heads"])), outputs["fits"], FIT_SCHEMA, about)
