"""Section `calibrated`: thresholds with a promise, tail compensation, shared decisions, a learned codec."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from ghostkv.config.base import (
    Ascending,
    CodeBits,
    Layers,
    Section,
    Seed,
    Share,
    Shares,
    Tokens,
    once,
    part,
    setting,
    within_memory,
)
from ghostkv.config.frontier import RuleName
from ghostkv.config.options import Count


class CalibratedTargets(Section):
    """Risks that thresholds are calibrated for, per head."""

    fer: Shares = setting([0.01, 0.05], "False elimination rates.")
    dropped_mass: Shares = setting([0.01, 0.05], "Mean dropped softmax mass.")
    output_error: Shares = setting([0.05], "Mean output errors, for the headline size alone.")


class Pair(Section):
    """One FER and one dropped mass."""

    fer: Shares = setting([0.01], "False elimination rates.")
    dropped_mass: Shares = setting([0.05], "Mean dropped softmax mass.")


class Validity(Section):
    """What promises are worth: calibration repeated on resampled texts, and thresholds that rarely fail."""

    resamplings: int = setting(256, "Calibrations on resampled texts, per head.", ge=2, le=1 << 16)
    failure: Share = setting(
        0.1, "Share of calibrations that high-probability thresholds may leave above target."
    )
    permutations: int = setting(499, "Permutations of queries and of texts.", ge=19, le=1 << 16)
    alarm: Share = setting(0.05, "Probability of a false alarm of the monitor.")
    seed: Seed = setting(0, "Seed of draws and permutations.")


class LearnedCodec(Section):
    """The codec whose frame is trained."""

    every: Layers | None = setting(10, "Train on layers 0, n, 2n, ...; 1 trains on all, null on none.")
    steps: Count = setting(80, "Adam steps per KV head.")
    rate: float = setting(0.0005, "Learning rate, decayed to zero along a cosine.", gt=0, le=1)
    lost: Share = setting(0.02, "Share of top keys that a batch may lose while survivors are minimised.")
    queries: int = setting(96, "Queries of one step.", ge=1, le=8192)
    keys: int = setting(1024, "Keys of one step.", ge=1, le=1 << 16)
    seed: Seed = setting(0, "Seed of the batches.")

    @model_validator(mode="after")
    def _scores_fit(self) -> LearnedCodec:
        within_memory("calibrated.learned", 1 << 27, keys=self.keys, queries=self.queries)
        return self


class Calibrated(Section):
    """Thresholds calibrated for a stated risk, and what they achieve on held-out text."""

    bits: Annotated[list[CodeBits], once()] = setting(
        [0.5, 1.25, 2.0],
        "Sizes of frontier.headline.codec in bits a coordinate, beside the headline's. Those that sketch lacks are fitted here.",
        max_length=16,
    )
    rules: Annotated[list[RuleName], once()] = setting(
        ["relative_topk", "relative_lse"],
        "Threshold rules, of those that frontier.rules has on.",
        min_length=1,
        max_length=3,
    )
    refine: int = setting(3, "Steps that each step of the frontier's grids is divided into.", ge=1, le=100)
    targets: CalibratedTargets = part(CalibratedTargets)
    page: int = setting(
        64,
        "Keys per page mean of V, the other kind of compensation; 0 for none. Its bytes are counted.",
        ge=0,
        le=1 << 20,
    )
    bands: Annotated[list[Tokens], Ascending] = setting(
        [256, 512, 1024, 2048, 3072, 4096],
        "Edges of the position bands that achieved risks are reported by.",
        min_length=2,
        max_length=64,
    )
    cross_domain: Pair = setting(Pair(), "Targets that are calibrated on one domain and tested on another.")
    group: Pair = setting(
        Pair(), "Targets at which a group's shared decision is compared with its heads' own."
    )
    validity: Validity = part(Validity)
    learned: LearnedCodec = part(LearnedCodec)
