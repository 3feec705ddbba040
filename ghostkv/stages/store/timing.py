"""TODO"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ghostkv.stages.store.speed import appends, gathers
from ghostkv.stages.store.tables import APPEND_SCHEMA, GATHER_SCHEMA
from ghostkv.stages.store.trials import _workplace, _write


def time_store(params: Mapping, outputs: Mapping[str, str]) -> None:
    """Time gathers and appends.

    Parameters
    ----------
    params : mapping
        The config section `store`, and `code`.
    outputs : mapping
        Paths of `gathers` and `appends`.
    """
    with _workplace(outputs["gathers"]) as folder:
        _write(gathers(Path(folder), params), outputs["gathers"], GATHER_SCHEMA, params)
        print("gathers timed", flush=True)
        _write(appends(Path(folder), params), outputs["appends"], APPEND_SCHEMA, params)
        print("appends timed", flush=True)
