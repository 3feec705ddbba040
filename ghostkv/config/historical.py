"""Section `historical`: the predecessor's protocol, and its knobs one at a time."""

from __future__ import annotations

from ghostkv.config.base import GridEntry, PositiveInt, PositiveInts, Section, Share, setting


class Historical(Section):
    """The predecessor's protocol, and its knobs one at a time."""

    dimensions: list[PositiveInt] = setting([8, 16, 32], "Rows m of the Gaussian projection.")
    epsilon: float = setting(0.05, "The constant that stood for the sketch error.", ge=0)
    sigma: float = setting(0.05, "The constant that stood for the anchor error.", ge=0)
    thetas: GridEntry = setting(
        GridEntry(start=0.05, stop=0.95, count=19), "One absolute theta for every query and head."
    )
    prompt_tokens: PositiveInts = setting([54, 60, 66, 73], "Lengths of the short prompts, in tokens.")
    prompts: PositiveInt = setting(8, "Short prompts, cut from held-out texts; the lengths take turns.")
    top_k: PositiveInt = setting(32, "Keys called relevant, out of a prompt that short.")
    passage_tokens: int = setting(
        1024,
        "Tokens of a held-out text that stand for a long context where queries and keys are rebuilt from hidden states. "
        "Other long contexts are the captures.",
        ge=64,
    )
    long_queries: PositiveInt = setting(
        12, "Queries per head and text in long contexts, over the second half."
    )
    sinks: int = setting(4, "First tokens kept exact, where that knob is put right.", ge=0)
    hot: int = setting(64, "Recent tokens kept exact, where that knob is put right.", ge=0)
    fer: Share = setting(0.05, "Largest FER of a safe point.")
    elimination: Share = setting(0.30, "Least elimination of a safe point.")
    seed: int = setting(0, "Seed of the projection.")
