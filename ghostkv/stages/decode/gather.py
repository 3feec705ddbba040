"""All layers of the decode in one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.stages.decode.schemas import SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.decode.jobs import GatherDecode


def gather(job: GatherDecode, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers and the generated decodes; the first file of each table lends its metadata."""
    for name, schema in SCHEMAS.items():
        found = pl.concat([read_table(path) for path in inputs[name]])
        write_table(found, outputs[name], schema, read_metadata(inputs[name][0]))
