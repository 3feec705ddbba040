"""All layers of the decode in one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.stages.decode.tables import SCHEMAS


def gather(tables: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all layers and the generated decodes; the first file of each table lends its metadata."""
    for name, schema in SCHEMAS.items():
        found = pl.concat([read_table(path) for path in tables[name]])
        write_table(found, outputs[name], schema, read_metadata(tables[name][0]))
