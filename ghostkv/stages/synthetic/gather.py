"""All generators in one table each, and the checks against closed forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.files.tables import join
from ghostkv.stages.synthetic.schemas import SCHEMAS
from ghostkv.stages.synthetic.summary_schemas import CHECK_SCHEMA
from ghostkv.stages.synthetic.tables import compare

if TYPE_CHECKING:
    from ghostkv.stages.synthetic.jobs import GatherSynthetic


def gather(job: GatherSynthetic, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all generators, and compare what was measured with what closed forms expect."""
    kept = ("package_version", "fingerprint", "seed")
    metadata = {key: value for key, value in read_metadata(inputs["audit"][0]).items() if key in kept}
    join(inputs, outputs, SCHEMAS, metadata)
    write_table(
        compare(read_table(outputs["audit"], SCHEMAS["audit"])), outputs["checks"], CHECK_SCHEMA, metadata
    )
