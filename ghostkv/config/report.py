"""Section `report`: how the results are shown."""

from __future__ import annotations

from pydantic import Field

from ghostkv.config.base import PositiveInt, Section


class Report(Section):
    """How the results are shown."""

    title: str = Field(default="GhostKV Lab", description="Title of the report.")
    png_scale: float = Field(default=2.0, gt=0, description="Pixels per point of PNG figures.")
    table_rows: PositiveInt = Field(
        default=30, description="Longest table in RESULTS.md; the Parquet files hold all rows."
    )
