"""Section `hierarchy`: an index over ghost records."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ghostkv.config.base import Section, Share, Shares, once, setting
from ghostkv.config.options import Count
from ghostkv.files.errors import ConfigError


class IndexEntry(Section):
    """One index."""

    partition: Literal["pages", "ball_tree", "kmeans"] = setting(
        ..., "Clusters: contiguous pages, leaves of a ball tree, or k-means of limited size."
    )
    leaf: Annotated[int, Field(ge=2, le=1 << 16)] = setting(..., "Keys a cluster.")
    bound: Literal["ball", "cone", "box", "wide"] = setting(
        ...,
        "What an anchor states. ball, cone: around the centre. box: half-widths in four bits, and the ball. wide: both "
        "corners of the box in float16.",
    )
    levels: Literal[1, 2] = setting(1, "2: coarser anchors over eight clusters each.")


def _entries(*lines: tuple) -> list[IndexEntry]:
    names = ("partition", "leaf", "bound", "levels")
    return [IndexEntry(**dict(zip(names, line, strict=False))) for line in lines]


class Hierarchy(Section):
    """An index over ghost records: whole clusters are ruled out before their records are read."""

    indexes: Annotated[list[IndexEntry], once()] = setting(
        _entries(
            ("pages", 8, "box"),
            ("ball_tree", 8, "ball"),
            ("kmeans", 8, "cone"),
            ("kmeans", 16, "box", 2),
            ("kmeans", 4, "box"),
            ("kmeans", 3, "wide"),
        ),
        "Indexes to measure. Threshold texts give each KV head one of them.",
        min_length=1,
        max_length=32,
    )
    calibrated: IndexEntry = setting(
        IndexEntry(partition="kmeans", leaf=8, bound="box"),
        "Index of the statistical variant, of one level. Threshold texts say how far its margins may shrink.",
    )
    fer: Share = setting(0.01, "False elimination that the statistical variant aims at.")
    queries: Count = setting(
        40, "Queries a head on the trace and each threshold text; half as many on others."
    )
    compare_every: Count = setting(
        3,
        "In one layer of so many, every index scans the trace. There each KV head's own index is also built by appending "
        "alone, and tried for the dropped mass.",
    )
    block: Count = setting(2048, "Keys of a prompt that are clustered together.")
    chunk: Count = setting(128, "Keys that a decode gathers before they become a block of the index.")
    seed_keys: Count = setting(96, "Keys of the most promising clusters, read first to know a threshold.")
    bypass: bool = setting(True, "Read without their anchor clusters that were nearly always opened.")
    refresh: Count = setting(16, "One query in so many reads bypassed anchors again.")
    deltas: Shares = setting([0.05], "Dropped mass of the second certificate that is compared.")

    @model_validator(mode="after")
    def _one_level_is_calibrated(self) -> Hierarchy:
        if self.calibrated.levels != 1:
            right = self.calibrated.plain() | {"levels": 1}
            raise ConfigError(
                f"config: hierarchy.calibrated has levels: {self.calibrated.levels}. Accepted: 1, as the shrunk margins "
                "are calibrated on what leaves lose: what coarser anchors lose would not be counted, and hierarchy.fer "
                "would not hold.\n  Write: calibrated: "
                f"{{{', '.join(f'{key}: {value}' for key, value in right.items())}}}"
            )
        return self
