"""All layers of the certificates in one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ghostkv.files.io import read_metadata
from ghostkv.files.tables import concatenate
from ghostkv.stages.certificates.tables import SCHEMAS


def gather(layers: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Concatenate the layers' tables; both mappings have the keys of `SCHEMAS`."""
    for name in SCHEMAS:
        concatenate(layers[name], outputs[name], read_metadata(layers[name][0]))
