"""Section `report`: how the results are shown."""

from __future__ import annotations

from ghostkv.config.base import Place, Section, setting


class Report(Section):
    """How the results are shown."""

    title: str = setting("GhostKV Lab", "Title of the report.")
    png_scale: float = setting(2.0, "Pixels per point of PNG figures.", ge=0.1, le=8)
    table_rows: int = setting(
        30, "Longest table in RESULTS.md; the Parquet files hold all rows.", ge=1, le=10_000
    )
    beside: Place | None = setting(
        None,
        "Results folder of a finished run of another model or context, shown beside this one; null for none.",
        examples=["results/long/results"],
    )
