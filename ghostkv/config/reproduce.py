"""Section `reproduce`: tables of other works, repeated by their own protocols."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ghostkv.config.base import Ascending, Count, Layers, Place, Section, Seed, Share, setting


class Reproduce(Section):
    """Tables of other works, repeated by their own protocols."""

    predecessor: Place | None = setting(
        None,
        "Folder with the predecessor's captured tensors, `gpt2_*.npz`, and its `metrics.csv`; null leaves that table out.",
    )
    recall_positions: Count = setting(100, "Random queries a held-out text, in Louver's recall table.")
    recall_at: Annotated[list[Count], Field(max_length=16), Ascending] = setting(
        [10, 20, 50, 100], "The k of the exact top-k keys, in Louver's recall table.", min_length=1
    )
    error_layers: Layers = setting(
        32,
        "Layers at most in SkyLight's table of attention errors, spread evenly. Its authors take all of a model's.",
    )
    error_queries: Count = setting(1, "Random queries a layer and held-out text, in SkyLight's table.")
    densities: Annotated[list[Share], Field(max_length=16), Ascending] = setting(
        [0.05, 0.10, 0.15, 0.20], "Shares of the keys that are read, in SkyLight's table.", min_length=1
    )
    read_characters: Count = setting(
        6000,
        "Characters of a held-out text that are read densely, in SparQ's table; of a shorter text, what is left.",
    )
    foretold_characters: Count = setting(400, "Characters after them that are foretold under elimination.")
    seed: Seed = setting(42, "Seed of all draws but the predecessor's, whose own is part of its protocol.")
