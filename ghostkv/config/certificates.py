"""Section `certificates`: what is proved of every query."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ghostkv.config.base import Section, Shares, once, setting
from ghostkv.config.options import Count
from ghostkv.files.errors import ConfigError

BoundName = Literal["low_bit_2", "low_bit_4", "block_int8", "page_box", "cluster_ball", "cluster_cone"]
BudgetShare = Annotated[float, Field(gt=0, le=1)]
LevelBits = Annotated[float, Field(gt=0, lt=16)]


class Certificates(Section):
    """What is proved of every query."""

    levels: list[LevelBits] = setting(
        [1.0, 1.0, 1.0, 1.0, 2.0, 2.0],
        "Bits a coordinate of each level of the nested record (1 is 8 bytes of a key of head_dim 64), and one byte of "
        "residual norm on top. A level is read for keys still undecided. The planes after the last make the record as "
        "long as the float16 key, so that it can be the stored key.",
        min_length=1,
        max_length=16,
    )
    shares: list[BudgetShare] = setting(
        [0.002, 0.01, 0.03, 0.1, 0.35, 0.97],
        "Share of the dropped-mass budget that may be spent up to each level.",
        max_length=16,
    )
    probes: Count = setting(32, "Keys with the best estimates whose K is read after the first level (top-k).")
    deltas: Shares = setting([0.05, 0.01, 0.001], "Dropped mass that no query may exceed.", min_length=1)
    bounds: Annotated[list[BoundName], once()] = setting(
        ["low_bit_4", "block_int8", "page_box", "cluster_ball", "cluster_cone"],
        "Bounds of other methods, certified for comparison.",
        max_length=8,
    )
    compared_every: Count = setting(
        8,
        "Comparisons and the randomised certificate take one query in so many; the nested record takes all.",
    )
    dithered_bits: Annotated[float, Field(ge=1, le=12)] | None = setting(
        4.0, "Bits a coordinate of the record of the randomised certificate; null leaves it out."
    )
    failure: Annotated[float, Field(gt=0, lt=1)] = setting(
        1e-12, "Probability, over the coins of that record, that its promise is broken for a head and query."
    )

    @model_validator(mode="after")
    def _levels_leave_planes(self) -> Certificates:
        if sum(self.levels) >= 16:
            raise ConfigError(
                f"config: certificates.levels adds up to {sum(self.levels):g} bits a coordinate. Accepted: less than "
                "16, the width of a stored key.\n  Write: levels: [1, 1, 1, 1, 2, 2]"
            )
        return self

    @model_validator(mode="after")
    def _a_share_for_each_level(self) -> Certificates:
        steps = list(zip(self.shares, self.shares[1:], strict=False))
        if len(self.shares) != len(self.levels) or any(later < earlier for earlier, later in steps):
            count = len(self.levels)
            fit = [round(0.97 * 0.5 ** (count - 1 - level), 3) for level in range(count)]
            raise ConfigError(
                f"config: certificates.shares is {self.shares} for {count} levels. "
                f"Accepted: one share a level, not descending.\n  Write: shares: {fit}"
            )
        return self
