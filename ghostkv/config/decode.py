"""Section `decode`: the life of every token, step by step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ghostkv.config.base import PositiveInt, Section, Share
from ghostkv.config.synthetic import GeneratorEntry
from ghostkv.files.errors import ConfigError

_Decay = Annotated[float, Field(gt=0.0, le=1.0)]


class DecodeSynthetic(Section):
    """Decodes of generated tensors."""

    generators: list[GeneratorEntry] = Field(
        default=[GeneratorEntry(name="gaussian"), GeneratorEntry(name="drifting")],
        description="As in synthetic.generators; each at most once.",
    )
    tokens: int = Field(
        default=4096, ge=64, description="Tokens before the first step, and of codec and threshold texts."
    )
    steps: PositiveInt = Field(default=1024, description="Steps, each of which appends a token.")
    group: PositiveInt = Field(default=2, description="Query heads that share the one KV head.")
    head_dim: int = Field(default=64, ge=4, description="Width of keys and queries.")

    @model_validator(mode="after")
    def _each_once(self) -> DecodeSynthetic:
        names = [entry.name for entry in self.generators]
        if not names:
            raise ConfigError(
                "config: decode.synthetic.generators is []. Accepted: one generator or more, each once.\n"
                "  Write: generators: [{name: gaussian}]"
            )
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"config: decode.synthetic.generators names {name} {names.count(name)} times. Accepted: each once.\n"
                    f"  Write: generators: [{{name: {name}}}]"
                )
        return self


class Decode(Section):
    """The headline design over the trace, token by token: hot, warm, ghost, archive, and back."""

    layers: PositiveInt = Field(
        default=8, description="Layers that are decoded, spread evenly over all; more than there are: all."
    )
    warm: Share = Field(
        default=0.125, description="Slots in fast memory beside the hot window, as a share of the tokens."
    )
    budgets: list[Share] = Field(
        default=[0.03125, 0.0625, 0.25],
        description="Other budgets of fast memory, as warm; policies are compared at these and at warm.",
    )
    budget_heads: PositiveInt = Field(
        default=1,
        description="KV heads of a layer that live through all budgets; other ones in other layers.",
    )
    ghost: Share = Field(
        default=0.5, description="Slots in slow memory, as a share of the tokens; the rest is on disk alone."
    )
    batch: PositiveInt = Field(
        default=64, description="Slots of slow memory that are freed at once when it is full."
    )
    window: PositiveInt = Field(
        default=16, description="A resurrection within so many steps of the last counts as re-resurrection."
    )
    decay: _Decay = Field(
        default=0.99,
        description="What is left of received attention after a step, for the policy that ranks by it.",
    )
    bin: PositiveInt = Field(default=64, description="Steps of a row of the steps table.")
    block_every: PositiveInt = Field(
        default=4,
        description="Every so-manieth step of the real store reads from the device what the policy has there alone.",
    )
    store_policy: Literal["age", "lru", "attention"] = Field(
        default="lru", description="The policy whose archive the real store is."
    )
    segment: PositiveInt = Field(default=64, description="Tokens of a segment of the real store.")
    synthetic: DecodeSynthetic = Field(
        default=DecodeSynthetic(), description="The same over generated tensors."
    )
