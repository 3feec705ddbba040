"""The threshold of every policy that names a bytes ratio, fitted on threshold texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.stages.quality.setup import sources_of

THETA_SCHEMA = pa.schema([("policy", pa.string()), ("ratio", pa.float64()), ("theta", pa.float64())])


def fit_thetas(sketch: str, params: Mapping[str, Any], output: str) -> None:
    """Fit the threshold of every ghost policy that names a bytes ratio, on texts of role `threshold`.

    Parameters
    ----------
    sketch : str
        ``results/sketch``.
    params : mapping
        The config section `quality`; `captures`, `layers`, `model_layers`, `start`, `points`; `code`.
    output : str
        Table of `THETA_SCHEMA`.
    """
    from ghostkv.runtime.load_policy import fit_budgets

    sources, rows = sources_of(sketch, params), []
    wanted = [entry for entry in params["policies"] if entry["policy"] == "ghost" and "ratio" in entry]
    kinds: dict[tuple, list[Mapping]] = {}
    for entry in wanted:
        key = tuple(
            sorted((k, str(v)) for k, v in entry.items() if k not in ("label", "ratio", "compensate"))
        )
        kinds.setdefault(key, []).append(entry)
    for entries in kinds.values():
        ratios = sorted({float(entry["ratio"]) for entry in entries})
        options = {key: value for key, value in entries[0].items() if key != "label"}
        found = fit_budgets(options, sources, ratios)
        rows += [
            {"policy": entry["label"], "ratio": entry["ratio"], "theta": found[float(entry["ratio"])]}
            for entry in entries
        ]
    write_rows(rows, output, THETA_SCHEMA, metadata(params.get("code")))
