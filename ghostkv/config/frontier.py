"""Section `frontier`: how much is eliminated, and what it costs."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from ghostkv.config.base import CodeBits, Exact, GridEntry, Section, Share, Shares, Tokens, part, setting
from ghostkv.config.options import Count
from ghostkv.config.sketch import CodecName
from ghostkv.files.errors import ConfigError

RuleName = Literal["absolute", "relative_topk", "relative_lse"]


class Rules(Section):
    """The grid of thetas of each threshold rule; null leaves a rule out."""

    absolute: GridEntry | None = setting(
        GridEntry(start=-16.0, stop=64.0, count=161),
        "Estimated score against theta, the same for every query (the historical rule).",
    )
    relative_topk: GridEntry | None = setting(
        GridEntry(start=-2.0, stop=0.5, count=126),
        "(estimate - tau) / (scale ||z|| rho) against theta; tau is the query's k-th best estimate.",
    )
    relative_lse: GridEntry | None = setting(
        GridEntry(start=-20.0, stop=0.0, count=126),
        "Estimate minus the log-sum-exp of the query's estimates, against theta.",
    )


class Targets(Section):
    """Losses that thresholds are chosen for."""

    fer: Shares = setting(
        [0.01, 0.05], "False elimination rates; decode and synthetic take the least.", min_length=1
    )
    dropped_mass: Shares = setting([0.01, 0.05], "Mean dropped softmax mass.")


class Safe(Section):
    """When a head counts as having a safe point."""

    fer: Share = setting(0.05, "False elimination rate on held-out text, at most.")
    elimination: Share = setting(0.30, "Elimination on held-out text, at least.")
    margin: Share = setting(0.5, "The threshold is chosen for this share of `fer`, to leave room.")


class Headline(Section):
    """The one design that the report leads with."""

    codec: CodecName = setting("transform_code", "A codec of sketch.codecs.")
    bits: CodeBits = setting(1.0, "One of its record sizes, in bits a coordinate.")
    rule: RuleName = setting("relative_topk", "One of frontier.rules.")


class Frontier(Section):
    """How much is eliminated, and what it costs."""

    sinks: Exact = setting(4, "First tokens, always kept exact.")
    # Not `Exact`: of two least values of a key pydantic holds to the last.
    hot: int = setting(
        64, "Most recent tokens, always kept exact. All other keys are cold.", ge=1, le=1 << 20
    )
    top_k: Count = setting(32, "The keys of largest exact score that must not be lost.")
    headline_start: Tokens = setting(2048, "Headline figures take queries from this position on.")
    rules: Rules = part(Rules)
    targets: Targets = part(Targets)
    safe: Safe = part(Safe)
    headline: Headline = part(Headline)

    def grids(self) -> dict[str, GridEntry]:
        """Thetas of the rules that are on."""
        on = {name: getattr(self.rules, name) for name in type(self.rules).model_fields}
        return {name: grid for name, grid in on.items() if grid is not None}

    @model_validator(mode="after")
    def _headline_is_measured(self) -> Frontier:
        on = [rule for rule in type(self.rules).model_fields if getattr(self.rules, rule) is not None]
        if self.headline.rule not in on:
            raise ConfigError(
                f"config: frontier.headline.rule is {self.headline.rule}, which frontier.rules leaves out. "
                f"Accepted: {', '.join(on) or 'none, as all rules are null'}.\n  Write: rule: "
                f"{on[0] if on else 'relative_topk'}"
            )
        for name in on:
            grid = getattr(self.rules, name)
            if grid.start >= grid.stop:
                raise ConfigError(
                    f"config: frontier.rules.{name} runs from {grid.start} to {grid.stop}. "
                    f"Accepted: start below stop.\n"
                    f"  Write: {name}: {{start: {grid.stop}, stop: {grid.start}, count: {grid.count}}}"
                )
        return self
