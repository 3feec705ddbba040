"""Section `speed`: a decode step of one layer, dense and under elimination, timed side by side."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ghostkv.config.base import (
    Ascending,
    CodeBits,
    Exact,
    Heads,
    Repeats,
    Section,
    Seed,
    Share,
    Threads,
    Tokens,
    once,
    part,
    setting,
    within_memory,
)
from ghostkv.config.options import Count
from ghostkv.files.errors import ConfigError

# Vectors of 16 numbers are what the kernel works in.
_STEP = 16


class TimedShape(Section):
    """Heads of a layer that is timed, and the lengths of its context."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)] = setting(
        ..., "How tables call it."
    )
    heads: Heads = setting(..., "Query heads.")
    kv_heads: Heads = setting(..., "KV heads, each shared by as many query heads.")
    head_dim: Annotated[int, Field(ge=_STEP, le=1024, multiple_of=_STEP)] = setting(
        ..., "Width of a key, and of a value; a multiple of 16."
    )
    contexts: Annotated[list[Tokens], Field(min_length=1, max_length=16), Ascending] = setting(
        ..., "Tokens of context, ascending."
    )

    @model_validator(mode="after")
    def _heads_share(self) -> TimedShape:
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"config: speed.shapes ({self.name}) has {self.heads} heads on {self.kv_heads} KV heads. Accepted: a multiple.\n"
                f"  Write: heads: {self.kv_heads * max(1, self.heads // self.kv_heads)}"
            )
        within_memory(
            "speed.shapes",
            1 << 30,
            contexts=max(self.contexts),
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
        )
        return self


_SHAPES = (
    ("smollm2-135m", 9, 3, 64, [4096, 32768]),
    ("gemma-3-270m", 4, 1, 256, [4096, 32768]),
    ("llama-3.1-8b", 32, 8, 128, [4096, 32768, 131072]),
)
_KEYS = ("name", "heads", "kv_heads", "head_dim", "contexts")


class Steps(Section):
    """Whole decode steps of the model, dense and under a policy of packed records."""

    contexts: Annotated[tuple[Tokens, ...], Field(max_length=16), Ascending] = setting(
        (4096, 8192),
        "Tokens in the cache at the last step, ascending; none for no steps. Up to those of the longest text.",
    )
    dtypes: Annotated[tuple[Literal["float32", "bfloat16"], ...], once()] = setting(
        ("float32", "bfloat16"),
        "Types of weights and cache; each side may take its fastest.",
        min_length=1,
        max_length=2,
    )
    ratio: Share = setting(
        0.25, "GQA-true bytes ratio that the policy's threshold is fitted for, on threshold texts."
    )
    count: Count = setting(12, "Steps of each way that are timed.")


class Speed(Section):
    """A decode step, dense and under elimination, side by side on this machine: of one layer's attention, and of the model."""

    shapes: Annotated[list[TimedShape], once("name")] = setting(
        [TimedShape(**dict(zip(_KEYS, shape, strict=True))) for shape in _SHAPES],
        "Layers of generated keys that are timed, with the spectrum of the captured ones; the captured layer itself comes on top.",
        max_length=16,
    )
    headline_shape: str | None = setting("llama-3.1-8b", "One of them, for headline figures; null for none.")
    thread_counts: Annotated[list[Threads], Field(min_length=1, max_length=8), Ascending] = setting(
        [1, 2], "Numbers of threads, of both sides."
    )
    bits: CodeBits = setting(1.0, "Bits a coordinate of a record, in whole rows of 4 bytes.")
    output_error: Share = setting(
        0.025, "Mean relative error of the output that theta is chosen for, on queries of its own."
    )
    queries: Annotated[int, Field(ge=1, le=256)] = setting(
        8, "Queries that choose theta, and as many others that are measured."
    )
    sinks: Exact = setting(4, "First tokens that are always read.")
    hot: Exact = setting(64, "Most recent tokens that are always read.")
    rounds: Repeats = setting(4, "Rounds of all ways in turns; the least time of each counts.")
    seed: Seed = setting(0, "Seed of generated keys, values and queries.")
    steps: Steps = part(Steps)

    @model_validator(mode="after")
    def _headline_is_a_shape(self) -> Speed:
        names = [shape.name for shape in self.shapes]
        if self.headline_shape is not None and self.headline_shape not in names:
            raise ConfigError(
                f"config: speed.headline_shape is {self.headline_shape}. Accepted: one of speed.shapes, {', '.join(names) or 'none'}, "
                f"or null.\n  Write: headline_shape: {names[0] if names else 'null'}"
            )
        return self
