"""Section `benchmark`: what capture and sweep cost."""

from __future__ import annotations

from pydantic import Field

from ghostkv.config.base import PositiveInt, Section


class Benchmark(Section):
    """What capture and sweep cost."""

    tokens: PositiveInt = Field(default=1024, description="Context of the capture overhead measurement.")
    repeats: PositiveInt = Field(default=3, description="Repeats of each timing; the median counts.")
    thetas: list[PositiveInt] = Field(
        default=[19, 100, 1000], min_length=1, description="Numbers of thetas that the sweep is timed at."
    )
    keys: PositiveInt = Field(default=4096, description="Keys per query of the timed sweep.")
    queries: PositiveInt = Field(default=96, description="Queries of the timed sweep.")
    seed: int = Field(default=0, description="Seed of the synthetic scores of the timed sweep.")
