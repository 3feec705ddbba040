"""All generators in one table each, and the checks against closed forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.files.tables import concatenate
from ghostkv.stages.synthetic.tables import CHECK_SCHEMA, compare


def gather(tables: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Join all generators, and compare what was measured with what closed forms expect.

    Parameters
    ----------
    tables : mapping
        Files of `audit`, `sweep`, `points` and `decode`, one a generator.
    outputs : mapping
        Paths of those and of `checks`.
    """
    kept = ("package_version", "fingerprint", "seed")
    metadata = {key: value for key, value in read_metadata(tables["audit"][0]).items() if key in kept}
    for name, files in tables.items():
        concatenate(files, outputs[name], metadata)
    write_table(compare(read_table(outputs["audit"])), outputs["checks"], CHECK_SCHEMA, metadata)
