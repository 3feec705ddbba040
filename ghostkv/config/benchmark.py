"""Section `benchmark`: what capture and sweep cost."""

from __future__ import annotations

from pydantic import model_validator

from ghostkv.config.base import Counts, Repeats, Section, Seed, Tokens, setting, within_memory
from ghostkv.config.options import Count


class Benchmark(Section):
    """What capture and sweep cost."""

    tokens: Tokens | None = setting(
        None, "Context of the capture overhead measurement; null for capture.tokens."
    )
    repeats: Repeats = setting(3, "Repeats of each timing; the median counts.")
    thetas: Counts = setting([19, 100, 1000], "Numbers of thetas that the sweep is timed at.")
    keys: Count = setting(4096, "Keys per query of the timed sweep.")
    queries: int = setting(96, "Queries of the timed sweep.", ge=1, le=10_000)
    seed: Seed = setting(0, "Seed of the synthetic scores of the timed sweep.")

    @model_validator(mode="after")
    def _scores_fit(self) -> Benchmark:
        within_memory("benchmark", 1 << 27, keys=self.keys, queries=self.queries)
        return self
