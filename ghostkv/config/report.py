"""Section `report`: how the results are shown."""

from __future__ import annotations

from ghostkv.config.base import Section, setting


class Report(Section):
    """How the results are shown."""

    title: str = setting("GhostKV Lab", "Title of the report.")
    png_scale: float = setting(2.0, "Pixels per point of PNG figures.", ge=0.1, le=8)
    table_rows: int = setting(
        30, "Longest table in RESULTS.md; the Parquet files hold all rows.", ge=1, le=10_000
    )
