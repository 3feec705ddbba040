"""Section `synthetic`: generated tensors of known law."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import model_validator

from ghostkv.config.base import (
    Counts,
    Heads,
    NamedEntry,
    Repeats,
    Section,
    Seed,
    Shares,
    once,
    part,
    setting,
    within_memory,
)
from ghostkv.config.options import Count
from ghostkv.config.sketch import CodecEntry
from ghostkv.files.errors import ConfigError

# Parameters of each generator of ghostkv/captures/generators.py, which is not imported here, as it brings NumPy.
PARAMETERS = {
    "gaussian": (),
    "anisotropic": ("decay", "query_decay"),
    "heavy_tailed": ("dof",),
    "needles": ("mass", "count"),
    "drifting": ("shift", "pull"),
    "sinks": ("mass", "count"),
}
_COMMON = ("spread", "span")
# Least and greatest value of each parameter, and how messages put them.
_BOUNDS = {
    "spread": (0.01, 8.0, "above 0 and at most 8, or exponentials of scores have no use"),
    "dof": (2.01, 1e6, "above 2, or scores have no variance"),
    "mass": (1e-6, 0.999, "between 0 and 1"),
    "count": (1, 1024, "from 1 to 1024"),
    "span": (64, 1e7, "the context in tokens, 64 or more"),
    "decay": (0.0, 8.0, "from 0, where all axes are alike, to 8, where one is all"),
    "query_decay": (0.0, 8.0, "from 0, where all axes are alike, to 8, where one is all"),
    "shift": (-100.0, 100.0, "from -100 to 100"),
    "pull": (-16.0, 16.0, "from -16 to 16"),
}
_CODECS = ("gaussian", "random_orthogonal", "pca", "whitened", "transform_code")


class GeneratorEntry(NamedEntry):
    """One generator and its parameters."""

    name: str = setting(..., "A generator of ghostkv/captures/generators.py.", examples=["gaussian"])

    @model_validator(mode="after")
    def _exists(self) -> GeneratorEntry:
        if self.name not in PARAMETERS:
            raise ConfigError(
                f"config: synthetic.generators names {self.name!r}. Accepted: {', '.join(PARAMETERS)}.\n"
                f"  Write: - {{name: {next(iter(PARAMETERS))}}}"
            )
        known = (*PARAMETERS[self.name], *_COMMON)
        for key, value in (self.model_extra or {}).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if key not in known or not number:
                raise ConfigError(
                    f"config: synthetic.generators {self.name} has {key}: {value!r}. Accepted: numbers for "
                    f"{', '.join(known)}.\n  Write: - {{name: {self.name}, {known[0]}: 2}}"
                )
        _within(self.name, self.model_extra or {})
        return self


def _within(name: str, given: dict[str, Any]) -> None:
    """Refuse values that no such law has."""
    for key, value in given.items():
        low, high, why = _BOUNDS[key]
        if not low <= value <= high or (key in ("count", "span") and value != int(value)):
            raise ConfigError(
                f"config: synthetic.generators {name} has {key}: {value!r}. Accepted: {why}.\n"
                f"  Write: - {{name: {name}}}   (which takes the default)"
            )


def check_planted(where: str, generators: Iterable[GeneratorEntry], tokens: int) -> None:
    """Refuse, by a `ConfigError`, more planted keys than the context that their mass refers to has room for."""
    for entry in generators:
        given = entry.model_extra or {}
        span, count = given.get("span", tokens), given.get("count", 0)
        if 2 * count > span:
            raise ConfigError(
                f"config: {where}.generators {entry.name} has count: {count} in a span of {span} tokens. Accepted: at most "
                f"half of it.\n  Write: count: {span // 2}"
            )


class AuditEntry(Section):
    """Sketch quality: how well estimates rank keys, and whether they do as closed forms say."""

    draws: int = setting(6, "Independent draws, each with worlds and projections of its own.", ge=2, le=1000)
    queries: Count = setting(32, "Queries of each head and draw.")


class TradeoffEntry(Section):
    """Thetas and record sizes against what is eliminated and what is lost."""

    draws: Repeats = setting(3, "Independent draws.")
    queries: Count = setting(
        128, "Queries of each head, draw and role; fewer than 1 / target promise nothing."
    )
    contexts: Counts = setting(
        [1024, 2048, 4096, 8192], "Context lengths at which the headline codec is measured."
    )


class DecodeEntry(Section):
    """A decode step by step over generated tensors."""

    draws: Repeats = setting(2, "Independent decodes.")
    start: Count = setting(1024, "Tokens before the first step; codec and thetas know no more.")
    steps: Count = setting(3072, "Steps, each of which appends a token.")
    ask_every: Count = setting(8, "One step in so many asks for a planted key.")
    masses: Shares = setting(
        [0.02, 0.1, 0.5],
        "Softmax mass of planted keys among normal scores, in turns.",
        min_length=1,
    )


class Synthetic(Section):
    """Generated tensors of known law: what is measured, beside what must come out."""

    seed: Seed = setting(0, "Seed of everything generated.")
    tokens: int = setting(4096, "Context of the audit and of codec texts.", ge=64, le=1 << 20)
    head_dim: int = setting(64, "Width of keys and queries.", ge=4, le=1024)
    group: Heads = setting(2, "Query heads that share the one KV head.")
    spread: float = setting(
        2.0, "Standard deviation of a query's scores; a generator may override it.", gt=0, le=8
    )
    generators: Annotated[list[GeneratorEntry], once()] = setting(
        [GeneratorEntry(name=name) for name in PARAMETERS],
        "Generators and their parameters, a job each; see docs/synthetic.md.",
        min_length=1,
        max_length=64,
    )
    codecs: Annotated[list[CodecEntry], once("name")] = setting(
        [CodecEntry(name=name, bits=[0.5, 1.0, 2.0, 4.0]) for name in _CODECS],
        "Codecs and their bits a coordinate; frontier.headline is added where it lacks.",
        min_length=1,
        max_length=32,
    )
    top: Counts = setting([8, 16, 32, 64], "How many best keys are compared with as many best estimates.")
    audit: AuditEntry = part(AuditEntry)
    tradeoff: TradeoffEntry = part(TradeoffEntry)
    decode: DecodeEntry = part(DecodeEntry)

    def labels(self) -> dict[str, dict[str, Any]]:
        """Generators by a name that is unique and may stand in a path: `sinks`, `sinks_2`, ..."""
        found: dict[str, dict[str, Any]] = {}
        for entry in self.generators:
            number = sum(other["name"] == entry.name for other in found.values()) + 1
            found[entry.name if number == 1 else f"{entry.name}_{number}"] = entry.plain()
        return found

    @model_validator(mode="after")
    def _tensors_fit(self) -> Synthetic:
        check_planted("synthetic", self.generators, self.tokens)
        contexts, decode = max(self.tokens, *self.tradeoff.contexts), self.decode
        queries = self.group * max(self.audit.queries, self.tradeoff.queries)
        within_memory("synthetic", 1 << 26, context=contexts, head_dim=self.head_dim)
        within_memory("synthetic", 1 << 28, **{"context": contexts, "group * queries": queries})
        rows = decode.start + decode.steps * self.group
        within_memory(
            "synthetic", 1 << 26, **{"decode.start + steps * group": rows, "head_dim": self.head_dim}
        )
        return self

    @model_validator(mode="after")
    def _fits(self) -> Synthetic:
        if self.group > self.head_dim // 2:
            raise ConfigError(
                f"config: synthetic.group is {self.group}, but a planted key answers all heads of a group and has "
                f"head_dim = {self.head_dim} numbers to do so. Accepted: at most {self.head_dim // 2}.\n"
                "  Write: group: 2"
            )
        return self
