"""Section `calibrated`: thresholds with a guarantee, tail compensation, shared decisions, a learned codec."""

from __future__ import annotations

from typing import Annotated

from ghostkv.config.base import Ascending, PositiveInt, Section, Share, part, setting
from ghostkv.config.frontier import RuleName


class CalibratedTargets(Section):
    """Risks that thresholds are calibrated for, per head."""

    fer: list[Share] = setting([0.01, 0.05], "False elimination rates.")
    dropped_mass: list[Share] = setting([0.01, 0.05], "Mean dropped softmax mass.")
    output_error: list[Share] = setting([0.05], "Mean output errors, for the headline size alone.")


class Pair(Section):
    """One FER and one dropped mass."""

    fer: list[Share] = setting([0.01], "False elimination rates.")
    dropped_mass: list[Share] = setting([0.05], "Mean dropped softmax mass.")


class LearnedCodec(Section):
    """The codec whose frame is trained."""

    every: PositiveInt | None = setting(10, "Train on layers 0, n, 2n, ...; 1 trains on all, null on none.")
    steps: PositiveInt = setting(80, "Adam steps per KV head.")
    rate: float = setting(0.0005, "Learning rate, decayed to zero along a cosine.", gt=0)
    lost: Share = setting(0.02, "Share of top keys that a batch may lose while survivors are minimised.")
    queries: PositiveInt = setting(96, "Queries of one step.")
    keys: PositiveInt = setting(1024, "Keys of one step.")
    seed: int = setting(0, "Seed of the batches.")


class Calibrated(Section):
    """Thresholds calibrated for a stated risk, and what they achieve on held-out text."""

    bytes: list[PositiveInt] = setting(
        [4, 10, 16],
        "Code bytes of frontier.headline.codec, beside the headline size. Sizes that sketch lacks are fitted here.",
    )
    rules: list[RuleName] = setting(
        ["relative_topk", "relative_lse"],
        "Threshold rules, of those that frontier.rules has on.",
        min_length=1,
    )
    refine: PositiveInt = setting(3, "Steps that each step of the frontier's grids is divided into.")
    targets: CalibratedTargets = part(CalibratedTargets)
    page: int = setting(
        64,
        "Keys per page mean of V, the other kind of compensation; 0 for none. Its bytes are counted.",
        ge=0,
    )
    bands: Annotated[list[PositiveInt], Ascending] = setting(
        [256, 512, 1024, 2048, 3072, 4096],
        "Edges of the position bands that achieved risks are reported by.",
        min_length=2,
    )
    cross_domain: Pair = setting(Pair(), "Targets that are calibrated on one domain and tested on another.")
    group: Pair = setting(
        Pair(), "Targets at which a group's shared decision is compared with its heads' own."
    )
    learned: LearnedCodec = part(LearnedCodec)
