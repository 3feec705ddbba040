"""All layers of the certificates in one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ghostkv.files.io import read_metadata
from ghostkv.files.tables import concatenate


def gather(layers: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Concatenate the layers' tables; both mappings have the tables' names as keys."""
    for name, files in layers.items():
        concatenate(files, outputs[name], read_metadata(files[0]))
