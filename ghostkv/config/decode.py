"""Section `decode`: the life of every token, step by step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ghostkv.config.base import (
    Counts,
    Heads,
    Layers,
    Section,
    Share,
    Shares,
    once,
    part,
    setting,
    within_memory,
)
from ghostkv.config.options import Count
from ghostkv.config.synthetic import GeneratorEntry, check_planted

_Decay = Annotated[float, Field(gt=0.0, le=1.0)]


class DecodeSynthetic(Section):
    """Decodes of generated tensors."""

    generators: Annotated[list[GeneratorEntry], once("name")] = setting(
        [GeneratorEntry(name="gaussian"), GeneratorEntry(name="drifting")],
        "As in synthetic.generators.",
        min_length=1,
        max_length=32,
    )
    tokens: int = setting(
        4096, "Tokens before the first step, and of codec and threshold texts.", ge=64, le=1 << 20
    )
    steps: Count = setting(1024, "Steps, each of which appends a token.")
    group: Heads = setting(2, "Query heads that share the one KV head.")
    head_dim: int = setting(64, "Width of keys and queries.", ge=4, le=1024)

    @model_validator(mode="after")
    def _tensors_fit(self) -> DecodeSynthetic:
        check_planted("decode.synthetic", self.generators, self.tokens)
        rows = self.tokens + self.steps * self.group
        within_memory(
            "decode.synthetic", 1 << 26, **{"tokens + steps * group": rows, "head_dim": self.head_dim}
        )
        return self


class DecodeOverlap(Section):
    """One layer over rows in memory and rows of a real store, timed: reads before attention, and meanwhile."""

    steps: Count = setting(128, "Last steps of the trace that are lived through.")
    every: Count = setting(8, "One step of so many is timed.")
    buffers: Counts = setting([256, 1024, 4096], "Rows of the hot buffer, of one KV head.")
    threads: Annotated[int, Field(ge=1, le=64)] = setting(8, "Threads that read from the store.")
    rounds: Count = setting(3, "Rounds in which every way takes its turn; the least time of each counts.")


class Decode(Section):
    """The headline design over the trace, token by token: hot, warm, ghost, archive, and back."""

    layers: Layers = setting(8, "Layers that are decoded, spread evenly over all.")
    warm: Share = setting(0.125, "Slots in fast memory beside the hot window, as a share of the tokens.")
    budgets: Shares = setting(
        [0.03125, 0.0625, 0.25],
        "Other budgets of fast memory, as warm, at which policies are compared.",
    )
    budget_heads: Heads = setting(
        1, "KV heads of a layer that live through all budgets; others in each layer."
    )
    ghost: Share = setting(0.5, "Slots in slow memory, as a share of the tokens; the rest is on disk alone.")
    batch: Count = setting(64, "Slots of slow memory that are freed at once when it is full.")
    window: Count = setting(16, "A resurrection within so many steps of the last is a re-resurrection.")
    decay: _Decay = setting(0.99, "What is left of received attention after a step, for policy attention.")
    bin: Count = setting(64, "Steps of a row of the steps table.")
    block_every: Count = setting(4, "The real store reads from the device in one step of so many.")
    store_policy: Literal["age", "lru", "attention"] = setting(
        "lru", "The policy whose archive the real store is."
    )
    segment: Count = setting(64, "Tokens of a segment of the real store.")
    requests: Counts = setting(
        [128, 512, 2048],
        "Rows that a request asks a hot buffer for: as many cold keys, the best by their records. Requests of all survivors come on top.",
    )
    buffers: Counts = setting(
        [256, 512, 1024, 2048, 4096],
        "Rows of the hot buffer, of one KV head; requests that ask for more are left out.",
    )
    overlap: DecodeOverlap = part(DecodeOverlap)
    synthetic: DecodeSynthetic = part(DecodeSynthetic)
