"""Section `calibrated`: thresholds with a guarantee, tail compensation, shared decisions, a learned codec."""

from __future__ import annotations

from pydantic import Field, model_validator

from ghostkv.config.base import PositiveInt, Section, Share
from ghostkv.config.frontier import RuleName
from ghostkv.files.errors import ConfigError


class CalibratedTargets(Section):
    """Risks that thresholds are calibrated for, per head."""

    fer: list[Share] = Field(default=[0.01, 0.05], description="False elimination rates.")
    dropped_mass: list[Share] = Field(default=[0.01, 0.05], description="Mean dropped softmax mass.")
    output_error: list[Share] = Field(
        default=[0.05], description="Mean output errors, without and with compensation; headline size alone."
    )


class Pair(Section):
    """One FER and one dropped mass."""

    fer: list[Share] = Field(default=[0.01], description="False elimination rates.")
    dropped_mass: list[Share] = Field(default=[0.05], description="Mean dropped softmax mass.")


class LearnedCodec(Section):
    """The codec whose frame is trained."""

    every: PositiveInt | None = Field(
        default=10, description="Train on layers 0, n, 2n, ...; 1 trains on all, null on none."
    )
    steps: PositiveInt = Field(default=80, description="Adam steps per KV head.")
    rate: float = Field(default=0.0005, gt=0, description="Learning rate, decayed to zero along a cosine.")
    lost: Share = Field(
        default=0.02,
        description="Share of top keys that a batch may lose; needless survivors are minimised at it.",
    )
    queries: PositiveInt = Field(default=96, description="Queries of one step.")
    keys: PositiveInt = Field(default=1024, description="Keys of one step.")
    seed: int = Field(default=0, description="Seed of the batches.")


class Calibrated(Section):
    """Thresholds calibrated for a stated risk, and what they achieve on held-out text."""

    bytes: list[PositiveInt] = Field(
        default=[4, 10, 16],
        description=(
            "Code bytes of frontier.headline.codec beside the headline size. Sizes that sketch does not make "
            "are fitted here."
        ),
    )
    rules: list[RuleName] = Field(
        default=["relative_topk", "relative_lse"],
        min_length=1,
        description="Threshold rules, of those that frontier.rules has on.",
    )
    refine: PositiveInt = Field(
        default=3, description="Steps that each step of the frontier's grids of thetas is divided into."
    )
    targets: CalibratedTargets = Field(
        default=CalibratedTargets(), description="Risks that thresholds are calibrated for, per head."
    )
    page: int = Field(
        default=64,
        ge=0,
        description=(
            "Keys per page mean of V, the second kind of tail compensation (its bytes are counted); 0 for none."
        ),
    )
    bands: list[PositiveInt] = Field(
        default=[256, 512, 1024, 2048, 3072, 4096],
        min_length=2,
        description="Edges of the position bands that achieved risks are reported by.",
    )
    cross_domain: Pair = Field(
        default=Pair(), description="Targets of the matrix 'calibrated on one domain, tested on another'."
    )
    group: Pair = Field(
        default=Pair(),
        description="Targets at which a group's shared decision is compared with its heads' own.",
    )
    learned: LearnedCodec = Field(default=LearnedCodec(), description="The codec whose frame is trained.")

    @model_validator(mode="after")
    def _bands_ascend(self) -> Calibrated:
        if sorted(set(self.bands)) != self.bands:
            raise ConfigError(
                f"config: calibrated.bands is {self.bands}. Accepted: edges in ascending order.\n"
                f"  Write: bands: {sorted(set(self.bands))}"
            )
        return self
