"""Section `historical`: the predecessor's protocol, and its knobs one at a time."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ghostkv.config.base import Exact, GridEntry, Section, Seed, Share, once, setting
from ghostkv.config.options import Count, Width

# The last four tokens of a prompt are its queries.
PromptTokens = Annotated[int, Field(ge=5, le=1 << 16)]


class Historical(Section):
    """The predecessor's protocol, and its knobs one at a time."""

    dimensions: Annotated[list[Width], once()] = setting(
        [8, 16, 32], "Rows m of the Gaussian projection.", min_length=1, max_length=16
    )
    epsilon: float = setting(0.05, "The constant that stood for the sketch error.", ge=0, le=1e3)
    sigma: float = setting(0.05, "The constant that stood for the anchor error.", ge=0, le=1e3)
    thetas: GridEntry = setting(
        GridEntry(start=0.05, stop=0.95, count=19), "One absolute theta for every query and head."
    )
    prompt_tokens: list[PromptTokens] = setting(
        [54, 60, 66, 73], "Lengths of the short prompts, in tokens.", min_length=1, max_length=64
    )
    prompts: Count = setting(8, "Short prompts, cut from held-out texts; the lengths take turns.")
    top_k: Count = setting(32, "Keys called relevant, out of a prompt that short.")
    passage_tokens: int = setting(
        1024,
        "Tokens of a held-out text that stand for a long context where queries and keys are rebuilt from hidden states. "
        "Other long contexts are the captures.",
        ge=64,
        le=1 << 24,
    )
    long_queries: Count = setting(12, "Queries per head and text in long contexts, over the second half.")
    sinks: Exact = setting(4, "First tokens kept exact, where that knob is put right.")
    hot: Exact = setting(64, "Recent tokens kept exact, where that knob is put right.")
    fer: Share = setting(0.05, "Largest FER of a safe point.")
    elimination: Share = setting(0.30, "Least elimination of a safe point.")
    seed: Seed = setting(0, "Seed of the projection.")
