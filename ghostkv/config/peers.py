"""Section `peers`: every method on one axis of bytes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from ghostkv.config.base import Ascending, Layers, NamedEntry, Section, Seed, Share, once, setting
from ghostkv.config.caches import CacheName
from ghostkv.config.selectors import check_selector
from ghostkv.config.selectors import selector_names as selector_names


class SelectorEntry(NamedEntry):
    """One selector and its hyperparameters."""

    name: str = setting(..., "A file of ghostkv/selectors, without .py.", examples=["ghost"])


def _entries(*lines: dict[str, Any]) -> list[SelectorEntry]:
    return [SelectorEntry(**line) for line in lines]


class Peers(Section):
    """Which selectors are compared, and at how many bytes."""

    ratios: Annotated[list[Share], Ascending] = setting(
        [0.03125, 0.0625, 0.125, 0.25, 0.375, 0.5625],
        "GQA-true bytes that every selector may read, over those of full attention: index, kept keys and survivors of a KV "
        "head, as a mean over the queries of a text. At most 8, ascending.",
        min_length=1,
        max_length=8,
    )
    layers: Layers = setting(5, "Layers in which selectors are compared, spread evenly over all.")
    selectors: Annotated[list[SelectorEntry], once()] = setting(
        _entries(
            {"name": "oracle_topk"},
            {"name": "oracle_topp"},
            {"name": "streaming_llm"},
            {"name": "h2o", "recent": 0.0},
            {"name": "h2o", "recent": 0.5},
            {"name": "snapkv", "observe": 4, "kernel": 1},
            {"name": "snapkv", "observe": 8, "kernel": 5},
            {"name": "quest", "page": 16},
            {"name": "quest", "page": 32},
            {"name": "loki", "dims": 8, "centred": True},
            {"name": "loki", "dims": 8, "centred": False},
            {"name": "sparq", "components": 4},
            {"name": "sparq", "components": 8},
            {"name": "double_sparsity", "channels": 8},
            {"name": "double_sparsity", "channels": 16},
            {"name": "pq", "parts": 4, "bits": 8},
            {"name": "pq", "parts": 8, "bits": 8},
            {"name": "shadowkv", "chunk": 8, "outliers": 4},
            {"name": "shadowkv", "chunk": 32, "outliers": 2},
            {"name": "retroinfer", "size": 16},
            {"name": "retroinfer", "size": 32},
            {"name": "clusterkv", "size": 32},
            {"name": "clusterkv", "size": 80},
            {"name": "vattention", "channels": 8, "heavy": 0.5},
            {"name": "vattention", "channels": 16, "heavy": 0.8},
            {"name": "magicpig", "bits": 7, "tables": 128},
            {"name": "magicpig", "bits": 8, "tables": 128},
            {"name": "token_picker", "chunks": [2, 2, 4, 4], "slack": 0.2},
            {"name": "one_bit", "scheme": "rotated"},
            {"name": "one_bit", "scheme": "grouped", "group": 64},
            {"name": "sign_hash", "bits": 32, "planes": "learned", "score": "hamming"},
            {"name": "sign_hash", "bits": 64, "planes": "random", "score": "soft"},
            {"name": "twilight", "page": 64, "candidates": 0.0625},
            {"name": "twilight", "page": 32, "candidates": 0.25},
            {"name": "louver", "keys_per_cluster": 16},
            {"name": "louver", "keys_per_cluster": 64},
            *({"name": "ghost", "codec": "vector_code", "bits": bits} for bits in (0.125, 0.25, 0.5, 0.75)),
            *({"name": "ghost", "codec": "turned_code", "bits": bits} for bits in (1.0, 1.5, 2.0)),
            {"name": "ghost", "codec": "transform_code", "bits": 1.0},
        ),
        "Selectors and their hyperparameters, a file of ghostkv/selectors each. Of a peer with several entries the best at "
        "each budget counts, in hindsight; of our own record the size that threshold texts choose.",
        min_length=1,
        max_length=200,
    )
    caches: Annotated[list[CacheName], once()] = setting(
        ["int8", "int6", "int4", "int3", "kivi2", "fp8"],
        "Quantised caches, which are read whole wherever they fit.",
        max_length=16,
    )
    seed: Seed = setting(0, "Seed of codebooks and hash planes.")

    @model_validator(mode="after")
    def _selectors_exist(self) -> Peers:
        for entry in self.selectors:
            check_selector(entry.plain(), "peers.selectors")
        return self
