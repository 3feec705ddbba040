"""Section `benchmark`: what capture and sweep cost."""

from __future__ import annotations

from ghostkv.config.base import PositiveInt, PositiveInts, Section, setting


class Benchmark(Section):
    """What capture and sweep cost."""

    tokens: PositiveInt = setting(1024, "Context of the capture overhead measurement.")
    repeats: PositiveInt = setting(3, "Repeats of each timing; the median counts.")
    thetas: PositiveInts = setting([19, 100, 1000], "Numbers of thetas that the sweep is timed at.")
    keys: PositiveInt = setting(4096, "Keys per query of the timed sweep.")
    queries: PositiveInt = setting(96, "Queries of the timed sweep.")
    seed: int = setting(0, "Seed of the synthetic scores of the timed sweep.")
