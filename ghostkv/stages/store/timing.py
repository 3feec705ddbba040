"""The store timed, alone on the machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ghostkv.files.provenance import metadata
from ghostkv.files.scratch import scratch_folder
from ghostkv.files.tables import write_rows
from ghostkv.stages.store.schemas import APPEND_SCHEMA, GATHER_SCHEMA
from ghostkv.stages.store.speed import appends, gathers

if TYPE_CHECKING:
    from ghostkv.stages.store.jobs import TimeStore


def time_store(job: TimeStore, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Time gathers and appends."""
    with scratch_folder(Path(outputs["gathers"]).parent, "trial") as folder:
        write_rows(gathers(folder, job), outputs["gathers"], GATHER_SCHEMA, metadata(job.code))
        print("gathers timed", flush=True)
        write_rows(appends(folder, job), outputs["appends"], APPEND_SCHEMA, metadata(job.code))
        print("appends timed", flush=True)
