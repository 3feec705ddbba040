"""Policies: what decides which keys a model reads while it decodes. One union for `quality` and `retrieval`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import Field, StrictBool, create_model, model_serializer, model_validator

from ghostkv.codecs.by_name import modules
from ghostkv.config.base import CodeBits, Exact, Layer, Section, Seed, Theta, setting
from ghostkv.config.caches import CacheName, TokenCacheName
from ghostkv.config.certificates import BudgetShare, LevelBits
from ghostkv.config.peers import SelectorEntry
from ghostkv.config.selectors import check_selector, selector_options
from ghostkv.config.sketch import CodecName
from ghostkv.files.errors import ConfigError

Portion = Annotated[float, Field(gt=0, le=1)]
Compensate = Annotated[
    StrictBool, Field(description="Give the eliminated keys' estimated mass to the running mean of V.")
]


class PolicyOptions(Section):
    """What all policies take."""

    label: str | None = setting(None, "How tables and charts name it; once each.", examples=["ghost_030"])
    policy: str = setting(..., "What decides which keys are read.", examples=["ghost"])
    dense_layers: tuple[Layer, ...] = setting(
        (), "Layers that read everything, and count in full.", examples=[[0, 1]], max_length=1000
    )
    sinks: Exact | None = setting(None, "First tokens, always read; null for frontier.sinks.", examples=[4])
    hot: int | None = setting(
        None,
        "Most recent tokens, always read, a query's own among them; null for frontier.hot.",
        ge=1,
        le=1 << 20,
        examples=[64],
    )
    prefill: Literal["dense", "sparse"] = setting(
        "dense", "How the context is read: densely, or under the policy like the rest."
    )
    shared: StrictBool = setting(True, "All heads of a group attend to the union of the group's survivors.")

    @property
    def name(self) -> str:
        """How tables name it."""
        return self.label or self.policy

    @property
    def asked(self) -> float | None:
        """The bytes ratio, mass or risk that is asked for."""
        values = (getattr(self, name, None) for name in ("ratio", "delta", "target"))
        return next((value for value in values if value is not None), None)

    @property
    def record(self) -> tuple[str, float] | None:
        """Codec and bits a coordinate of the ghost records that it reads, of sketch.codecs."""
        return None

    @model_serializer(mode="wrap")
    def _as_written(self, full: Any) -> dict[str, Any]:
        """The entry without options that nobody wrote."""
        return {
            key: value for key, value in full(self).items() if key == "policy" or key in self.model_fields_set
        }


class RecordPolicy(PolicyOptions):
    """What policies that read ghost records take besides."""

    codec: CodecName = setting("transform_code", "A codec of ghostkv/codecs.")
    bits: CodeBits = setting(1.0, "Size of its code, in bits a coordinate.")

    @property
    def record(self) -> tuple[str, float]:
        return self.codec, self.bits


class FullPolicy(PolicyOptions):
    """Nothing is left out."""

    policy: Literal["full"] = setting("full", "All layers are dense.")
    kind: ClassVar[str] = "dense"


class IdentityPolicy(RecordPolicy):
    """The whole machinery runs and eliminates nothing."""

    policy: Literal["identity"] = setting("identity", "Records, and theta = -inf.")
    kind: ClassVar[str] = "identity"


class GhostPolicy(RecordPolicy):
    """One threshold for the whole model, on the estimated log mass over the uniform share."""

    policy: Literal["ghost"] = setting("ghost", "Keys of enough estimated mass are read.")
    ratio: Portion | None = setting(
        None,
        "GQA-true bytes of the whole model that theta is fitted for, over full fp16 K and V.",
        examples=[0.3],
    )
    theta: Theta | None = setting(None, "The threshold itself, in place of ratio.", examples=[0.0])
    compensate: Compensate = True
    codec: CodecName = setting("turned_code", "A codec of ghostkv/codecs.")
    cache: TokenCacheName = setting(
        "fp16",
        "Type that cold keys are held in: records are of it, and survivors are read and counted in it.",
    )
    kind: ClassVar[str] = "ours"

    @model_validator(mode="after")
    def _dense_layers_are_full(self) -> GhostPolicy:
        if self.cache != "fp16" and self.dense_layers:
            raise ConfigError(
                f"config: policy {self.name} has cache: {self.cache} and dense_layers: {list(self.dense_layers)}, which are read "
                "as they are. Accepted: one of them.\n  Write: dense_layers: []"
            )
        return self

    @model_validator(mode="after")
    def _one_budget(self) -> GhostPolicy:
        if (self.ratio is None) == (self.theta is None):
            found = "neither ratio nor theta" if self.ratio is None else "both ratio and theta"
            raise ConfigError(
                f"config: policy {self.name} has {found}. Accepted: one of them, the bytes or the threshold.\n"
                "  Write: ratio: 0.3"
            )
        return self


class CalibratedPolicy(RecordPolicy):
    """The frontier's threshold of every head, on the estimated log mass."""

    policy: Literal["calibrated"] = setting(
        "calibrated", "Keys above a theta calibrated on threshold texts are read."
    )
    target_metric: Literal["fer", "dropped_mass"] = setting(
        "dropped_mass", "The loss that theta was chosen for, of frontier.targets."
    )
    target: Portion = setting(0.01, "How much of it, one of its frontier.targets.")
    compensate: Compensate = True
    kind: ClassVar[str] = "ours"


class CertifiedMassPolicy(PolicyOptions):
    """Keys are dropped that provably hold less than delta together, for every query."""

    policy: Literal["certified_mass"] = setting(
        "certified_mass", "Keys that are not provably negligible are read."
    )
    delta: Portion = setting(0.01, "Softmax mass that no query may drop more of.")
    compensate: Compensate = True
    levels: tuple[LevelBits, ...] | None = setting(
        None,
        "Bits a coordinate of each level of the nested record; null for certificates.levels.",
        min_length=1,
        max_length=16,
        examples=[[1, 1, 1, 1, 2, 2]],
    )
    shares: tuple[BudgetShare, ...] | None = setting(
        None,
        "Share of delta spent up to each level; null for certificates.shares.",
        max_length=16,
        examples=[[0.002, 0.01, 0.03, 0.1, 0.35, 0.97]],
    )
    kind: ClassVar[str] = "certified"

    @model_validator(mode="after")
    def _a_share_for_each_level(self) -> CertifiedMassPolicy:
        levels, shares = self.levels or (), self.shares or ()
        if len(levels) != len(shares) or list(shares) != sorted(shares) or sum(levels) >= 16:
            raise ConfigError(
                f"config: policy {self.name} has levels: {list(levels)} and shares: {list(shares)}. Accepted: less than 16 "
                "bits in all, and a share for each level, not descending; or neither, for those of certificates.\n"
                "  Write: levels: [2, 4], shares: [0.3, 0.9]"
            )
        return self


class OracleMassPolicy(PolicyOptions):
    """What certified mass would read if bounds were exact scores."""

    policy: Literal["oracle_mass"] = setting(
        "oracle_mass", "Keys whose exact mass is too large to drop are read."
    )
    delta: Portion = setting(0.01, "Softmax mass that no query may drop more of.")
    kind: ClassVar[str] = "oracle"


class QuantisedPolicy(PolicyOptions):
    """All of a cache of fewer bits; sinks and hot window stay in fp16."""

    policy: Literal["quantised"] = setting("quantised", "Everything is read, in fewer bits.")
    cache: CacheName = setting(..., "Type of the cache.", examples=["int4"])
    kind: ClassVar[str] = "peer"


class SelectorPolicy(PolicyOptions):
    """A selector of the peers list in the model's seat."""

    policy: Literal["selector"] = setting("selector", "A selector chooses.")
    selector: SelectorEntry = setting(
        ...,
        "A selector of ghostkv/selectors by name, and its hyperparameters.",
        examples=[{"name": "quest", "page": 16}],
    )
    ratio: Portion = setting(
        ...,
        "GQA-true bytes that each KV head may read, or all of them together, over full fp16 K and V.",
        examples=[0.2],
    )
    column: Literal["alone", "one_budget", "compensated"] = setting(
        "alone",
        "alone: a fixed number of keys a query. one_budget: one threshold for the whole model on the estimated mass, fitted for "
        "ratio on threshold texts. compensated: that, and the estimated mass of the other keys goes to the running mean of V.",
    )
    theta: Theta | None = setting(None, "That threshold itself; null to fit it.", examples=[0.0])
    seed: Seed | None = setting(None, "Seed of codebooks and hash planes; null for peers.seed.", examples=[0])

    @model_validator(mode="after")
    def _selector_exists(self) -> SelectorPolicy:
        check_selector(self.selector.plain(), f"policy {self.name}")
        if not self.shared:
            raise ConfigError(
                f"config: policy {self.name} has shared: false. Accepted: shared: true, as the heads of a selector decide "
                "together.\n  Remove it."
            )
        return self

    @property
    def kind(self) -> str:
        name = self.selector.name
        return "oracle" if name.startswith("oracle") else "ours" if name == "ghost" else "peer"

    @property
    def record(self) -> tuple[str, float] | None:
        if self.kind != "ours":
            return None
        options = selector_options(self.selector.name) | self.selector.plain()
        return "transform_code", options["bits"]


SEATED = (
    IdentityPolicy, GhostPolicy, CalibratedPolicy, CertifiedMassPolicy, OracleMassPolicy, QuantisedPolicy, SelectorPolicy,
)  # fmt: skip
BRANCHES = (FullPolicy, *SEATED)
SomePolicy = Annotated[Union[BRANCHES], Field(discriminator="policy")]  # noqa: UP007


def entries_of(own: type[PolicyOptions]) -> Any:
    """The union as a section lists it: every policy but the dense one, labelled, with the section's own keys."""
    label = PolicyOptions.model_fields["label"]
    label = Field(description=label.description, examples=label.examples)
    branches = tuple(
        create_model(
            f"{own.__name__}{branch.__name__}", __base__=(branch, own), __doc__=branch.__doc__, label=(str, label)
        )
        for branch in SEATED
    )  # fmt: skip
    return Annotated[Union[branches], Field(discriminator="policy")]  # noqa: UP007


def modules_of(policies: Iterable[PolicyOptions]) -> tuple[str, ...]:
    """Modules that policies find by name, for `Job.uses`: their codecs and selectors."""
    # The base of each room is among them, as a job that names no module of a room depends on all.
    codecs, selectors = {"base"}, {"base"}
    for one in policies:
        codecs |= {one.record[0]} if one.record else set()
        selectors |= {one.selector.name} if isinstance(one, SelectorPolicy) else set()
    return (*modules(codecs), *sorted(f"ghostkv.selectors.{name}" for name in selectors))
