"""Section `historical`: the predecessor's protocol, and its knobs one at a time."""

from __future__ import annotations

from pydantic import Field

from ghostkv.config.base import GridEntry, PositiveInt, Section, Share


class Historical(Section):
    """The predecessor's protocol, and its knobs one at a time."""

    dimensions: list[PositiveInt] = Field(
        default=[8, 16, 32], description="Rows m of the Gaussian projection."
    )
    epsilon: float = Field(default=0.05, ge=0, description="The constant that stood for the sketch error.")
    sigma: float = Field(default=0.05, ge=0, description="The constant that stood for the anchor error.")
    thetas: GridEntry = Field(
        default=GridEntry(start=0.05, stop=0.95, count=19),
        description="One absolute theta for every query and head.",
    )
    prompt_tokens: list[PositiveInt] = Field(
        default=[54, 60, 66, 73], min_length=1, description="Lengths of the short prompts, in tokens."
    )
    prompts: PositiveInt = Field(
        default=8, description="Short prompts, cut from held-out texts; the lengths take turns."
    )
    top_k: PositiveInt = Field(default=32, description="Keys called relevant, out of a prompt that short.")
    passage_tokens: int = Field(
        default=1024,
        ge=64,
        description=(
            "Tokens of one held-out text that stand for a long context where queries and keys are rebuilt "
            "from hidden states; other long contexts are the captures."
        ),
    )
    long_queries: PositiveInt = Field(
        default=12, description="Queries per head and text in long contexts, spread over the second half."
    )
    sinks: int = Field(default=4, ge=0, description="First tokens kept exact, where that knob is put right.")
    hot: int = Field(default=64, ge=0, description="Recent tokens kept exact, where that knob is put right.")
    fer: Share = Field(default=0.05, description="Largest FER of a safe point.")
    elimination: Share = Field(default=0.30, description="Least elimination of a safe point.")
    seed: int = Field(default=0, description="Seed of the projection.")
