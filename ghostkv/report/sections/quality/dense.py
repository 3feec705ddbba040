"""KV heads that a policy leaves dense, because elimination would save nothing there."""

from __future__ import annotations

import polars as pl

from ghostkv.report.document import Column, Table
from ghostkv.report.results import Results

DENSE = "quality.dense"


def dense(results: Results) -> Table:
    """Which KV heads stay dense under each policy that may leave some so."""
    found, rows = results.table(DENSE), []
    for entry in results.config["quality"]["policies"]:
        if entry["policy"] == "calibrated":
            own = found.filter(policy=entry["label"]).sort("layer", "kv_head")
            named = own.select(pl.format("{}/{}", "layer", "kv_head")).to_series().to_list()
            most = own["bytes_ratio_gqa"].max()
            rows.append(
                {
                    "policy": entry["label"],
                    "count": own.height,
                    "which": ", ".join(named) or "none",
                    "most": most,
                }
            )
    return Table(
        "quality_dense",
        "KV heads that stay dense, by layer: where the records and all that the heads of the group keep were no fewer bytes on the "
        "threshold texts than the whole K and V. They are read whole, without records, and count in full. What they drop is nothing, so "
        "every promise holds of them. *Bytes* is the most that elimination would have read of one.",
        pl.DataFrame(
            rows, schema={"policy": pl.String, "count": pl.Int64, "which": pl.String, "most": pl.Float64}
        ),
        {
            "policy": Column("Policy"),
            "count": Column("KV heads", "integer"),
            "which": Column("Layer/KV head"),
            "most": Column("Bytes, GQA-true", "ratio"),
        },
        sources=(DENSE,),
    )
