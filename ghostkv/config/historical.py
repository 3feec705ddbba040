"""Section `historical`: the predecessor's protocol, and its knobs one at a time."""

from __future__ import annotations

from pydantic import Field

from ghostkv.config.base import Grid, PositiveInt, Section


class Historical(Section):
    """The predecessor's protocol, and its knobs one at a time."""

    dimensions: list[PositiveInt] = Field(
        default=[8, 16, 32], description="Rows m of the Gaussian projection."
    )
    epsilon: float = Field(default=0.05, ge=0, description="The constant that stood for the sketch error.")
    sigma: float = Field(default=0.05, ge=0, description="The constant that stood for the anchor error.")
    thetas: Grid = Field(
        default=Grid(start=0.05, stop=0.95, count=19),
        description="One absolute theta for every query and head.",
    )
    prompt_tokens: list[PositiveInt] = Field(
        default=[54, 60, 66, 73], min_length=1, description="Lengths of the short prompts, in tokens."
    )
    top_k: PositiveInt = Field(default=32, description="Keys called relevant, out of a prompt that short.")
    seed: int = Field(default=0, description="Seed of the projection.")
