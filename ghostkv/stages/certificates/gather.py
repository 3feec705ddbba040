"""All layers of the certificates in one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.files.tables import join
from ghostkv.stages.certificates.schemas import SCHEMAS

if TYPE_CHECKING:
    from ghostkv.stages.certificates.jobs import GatherCertificates


def gather(job: GatherCertificates, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, str]) -> None:
    """Concatenate the layers' tables, which inputs and outputs name."""
    join(inputs, outputs, SCHEMAS)
