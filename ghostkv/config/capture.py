"""Section `capture`: which queries and keys are recorded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ghostkv.config.base import Layer, Place, Section, Seed, Threads, Tokens, setting
from ghostkv.config.texts import Domain, Role
from ghostkv.files.errors import ConfigError


class QueryBand(Section):
    """Query positions sampled from one range of the context."""

    start: int = setting(..., "First position.", ge=0, lt=1 << 24)
    stop: Tokens = setting(..., "Position after the last.")
    count: Tokens = setting(..., "Queries per head, drawn without replacement, seeded.")


class ImportedTensors(Section):
    """One folder of captured tensors, standing for one text."""

    folder: Place = setting(..., "Folder of .npz or .safetensors files with q, k and optionally v.")
    domain: Domain = setting(..., "What kind of text was captured.")
    role: Role = setting(..., "codec, threshold or held_out.")
    scale: float | None = setting(None, "Factor of the score; 1/sqrt(head_dim) where null.", gt=0, le=1e3)


class Capture(Section):
    """Which queries and keys are recorded."""

    tokens: int = setting(4096, "Tokens of context per text.", ge=64, le=1 << 24)
    layers: Literal["all"] | Annotated[list[Layer], Field(max_length=1000)] = setting(
        "all", "Layers to record and measure: all, or a list such as [0, 10, 20]."
    )
    query_bands: list[QueryBand] = setting(
        [
            QueryBand(start=256, stop=512, count=16),
            QueryBand(start=512, stop=1024, count=16),
            QueryBand(start=1024, stop=2048, count=32),
            QueryBand(start=2048, stop=4096, count=96),
        ],
        "Queries sampled per head, by position; keys and values are recorded in full. The bands are the steps of the "
        "figure 'elimination against context length'.",
        min_length=1,
        max_length=64,
    )
    held_out_share: float = setting(
        0.25,
        "Share of those queries that a held-out text takes, rounded up. Queries of one text resemble one another, so many texts "
        "with few queries say more than few texts with many. Write 1 for one held-out text or two.",
        gt=0,
        le=1,
    )
    tolerance: float = setting(
        1e-3,
        "Largest relative error of attention recomputed from the file, beyond what rounding in model.dtype explains. A capture "
        "above it fails.",
        gt=0,
        le=1,
    )
    cache_dtype: Literal["float16", "model"] = setting(
        "float16",
        "float16: attention reads K and V rounded to float16, as a server with a float16 cache does. The file then holds "
        "exactly what attention read. model: only the file is rounded. The rounding then counts against `tolerance`, "
        "which needs about 1e-2.",
    )
    chunk: Tokens | None = setting(
        None,
        "Tokens of a text, and of the trace, that are read at once, over a cache; null for all. Chunks take less memory for "
        "activations, and some for the cache.",
        examples=[2048],
    )
    threads: Threads = setting(1, "Threads of one forward pass. Texts run side by side.")
    seed: Seed = setting(0, "Seed of the sampled positions.")
    import_: list[ImportedTensors] | None = setting(
        None,
        "Folders of captured tensors in place of a model and texts: [{folder: /data/qkv, domain: mine, role: held_out}], "
        "and one for every other role. More threshold queries are drawn of them than query_bands says, where the least of "
        "frontier.targets takes more.",
        alias="import",
        max_length=10_000,
    )

    @model_validator(mode="after")
    def _bands_lie_in_the_context(self) -> Capture:
        for number, band in enumerate(self.query_bands):
            where = f"config: capture.query_bands[{number}]"
            if band.stop > self.tokens:
                raise ConfigError(
                    f"{where}.stop is {band.stop}, beyond capture.tokens: {self.tokens}. "
                    f"Accepted: at most {self.tokens}.\n"
                    f"  Write: stop: {self.tokens}   (and drop the bands that start later), or "
                    f"raise capture.tokens"
                )
            if band.start >= band.stop:
                raise ConfigError(
                    f"{where} runs from {band.start} to {band.stop}, which is empty. Accepted: "
                    f"start below stop.\n"
                    f"  Write: {{start: {min(band.start, band.stop)}, stop: {self.tokens}, "
                    f"count: {band.count}}}"
                )
            if band.count > band.stop - band.start:
                raise ConfigError(
                    f"{where}.count is {band.count}, but the band has {band.stop - band.start} positions.\n"
                    f"  Write: count: {band.stop - band.start}   (or less)"
                )
        for first, second in zip(self.query_bands, self.query_bands[1:], strict=False):
            if second.start < first.stop:
                raise ConfigError(
                    f"config: capture.query_bands overlap or are out of order: "
                    f"{first.start}-{first.stop}, then "
                    f"{second.start}-{second.stop}.\n  Write: start: {first.stop}   in the later band"
                )
        return self

    @model_validator(mode="after")
    def _layers_are_listed_once(self) -> Capture:
        if self.layers == "all":
            return self
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ConfigError(
                f"config: capture.layers is {self.layers}. Accepted: all, or a list of distinct layers.\n"
                "  Write: layers: [0, 10, 20]"
            )
        return self
