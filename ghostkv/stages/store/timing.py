"""The store timed, alone on the machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.stages.store.speed import appends, gathers
from ghostkv.stages.store.tables import APPEND_SCHEMA, GATHER_SCHEMA
from ghostkv.stages.store.workload import workplace


def time_store(params: Mapping, outputs: Mapping[str, str]) -> None:
    """Time gathers and appends.

    Parameters
    ----------
    params : mapping
        The config section `store`, and `code`.
    outputs : mapping
        Paths of `gathers` and `appends`.
    """
    with workplace(outputs["gathers"]) as folder:
        write_rows(
            gathers(Path(folder), params), outputs["gathers"], GATHER_SCHEMA, metadata(params.get("code"))
        )
        print("gathers timed", flush=True)
        write_rows(
            appends(Path(folder), params), outputs["appends"], APPEND_SCHEMA, metadata(params.get("code"))
        )
        print("appends timed", flush=True)
