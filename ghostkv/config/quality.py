"""Section `quality`: the model decodes held-out text under elimination and is compared with itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import model_validator

from ghostkv.config.base import Layers, Section, Seed, Share, Threads, Tokens, once, part, setting
from ghostkv.config.options import Count
from ghostkv.config.policies import PolicyOptions, entries_of
from ghostkv.files.errors import ConfigError

# Texts of a domain that a job decodes one after the other.
_TOGETHER = 3
# What the report quotes figures for; each is looked up by name.
_HEADLINE = ("identity", "mass", "budget")


def text_parts(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names of held-out texts, `{domain}_held_out_{number}`, by the job that decodes them: `{domain}_{number of the job}`."""
    found: dict[str, list[str]] = {}
    for text in texts:
        domain, _, number = text.rpartition("_")
        found.setdefault(f"{domain.removesuffix('_held_out')}_{int(number) // _TOGETHER}", []).append(text)
    return {part: tuple(some) for part, some in found.items()}


class QualityEntry(PolicyOptions):
    """What the stage asks of a policy."""

    positions: Count | None = setting(
        None,
        "Positions to decode under it, for a policy that is slow; null for all.",
        examples=[16],
    )
    texts: Count | None = setting(
        None, "Held-out texts of each domain to decode under it, the first ones; null for all.", examples=[1]
    )


# Our record in the model's seat, for a selector that does not read it by default.
_RECORD = {"codec": "turned_code", "bits": 1.0}
# Positions of a text under a policy that decides in NumPy.
_FEW = 16


def _columns(
    name: str, selector: dict[str, Any], columns: list[str], ratios: list[float], **more: Any
) -> list[dict[str, Any]]:
    """A selector in each column at each ratio."""
    return [
        {"label": "_".join([name, *([column] if column != "alone" else []), f"{round(100 * ratio):03d}"])}
        | {"policy": "selector", "positions": _FEW, "selector": selector, "ratio": ratio}
        | ({"column": column} if column != "alone" else {})
        | more
        for column in columns
        for ratio in ratios
    ]


def _defaults() -> list[dict[str, Any]]:
    # What no claim is made of is decoded on one text of each domain: a text costs its records, however few its positions.
    once = {"texts": 1}
    certified = (
        ("5pct", 0.05, {"positions": 16, **once}),
        ("1pct", 0.01, {"positions": 12}),
        ("01pct", 0.001, {"positions": 16, **once}),
    )
    return [
        {"label": "identity", "policy": "identity", "positions": 16},
        *[
            {"label": f"mass_{name}", "policy": "certified_mass", "delta": delta} | more
            for name, delta, more in certified
        ],
        *[
            {"label": f"ghost_{round(100 * ratio):03d}", "policy": "ghost", "ratio": ratio} | more
            for ratio, more in ((0.10, {}), (0.15, once), (0.20, {}), (0.25, once), (0.29, {}))
        ],
        {"label": "ghost_025_plain", "policy": "ghost", "ratio": 0.25, "compensate": False, **once},
        *_columns("ghost_alone", {"name": "ghost"} | _RECORD, ["alone"], [0.15, 0.30]),
        {"label": "calibrated_1pct", "policy": "calibrated", "target_metric": "dropped_mass", "target": 0.01}
        | once,
        {"label": "oracle_1pct", "policy": "oracle_mass", "delta": 0.01, **once},
        *_columns("oracle_topk", {"name": "oracle_topk"}, ["alone", "compensated"], [0.15, 0.30], **once),
        *_columns("quest", {"name": "quest", "page": 16}, ["alone", "compensated"], [0.15, 0.30]),
        *_columns("pq", {"name": "pq"}, ["alone", "one_budget", "compensated"], [0.15, 0.30]),
        *_columns(
            "double_sparsity",
            {"name": "double_sparsity"},
            ["alone", "one_budget", "compensated"],
            [0.15, 0.30],
        ),
        *_columns("sign_hash", {"name": "sign_hash", "bits": 32}, ["alone", "compensated"], [0.15, 0.30]),
        *_columns("streaming_llm", {"name": "streaming_llm"}, ["alone"], [0.15, 0.30], **once),
        *_columns("h2o", {"name": "h2o", "recent": 0.5}, ["alone"], [0.15, 0.30], **once),
        *_columns("snapkv", {"name": "snapkv", "observe": 32, "kernel": 5}, ["alone"], [0.15, 0.30], **once),
        *[
            {"label": cache, "policy": "quantised", "positions": _FEW, "cache": cache}
            for cache in ("int8", "int6", "int4", "int3", "fp8")
        ],
        # Thetas that were fixed without a look at what they read or lose.
        *[
            {"label": f"ghost_over_{cache}{name}", "policy": "ghost", "theta": theta, "cache": cache} | once
            for cache in ("fp8", "int8", "int4")
            for name, theta in (("", -1.0), ("_tight", 0.5))
        ],
    ]


_FIRST = setting(1, "Held-out texts of each domain, the first ones; null for all.")


class Ablation(Section):
    """Elimination in one band of layers at a time."""

    policy: str | None = setting("ghost_020", "Label of the policy; null for no ablation.")
    band: Layers = setting(5, "Layers that eliminate together; all others read everything.")
    positions: Count = setting(64, "Positions to decode under it, for a policy that is slow; null for all.")
    texts: Count | None = _FIRST


class Generation(Section):
    """Greedy continuations side by side."""

    policies: Annotated[list[str], once()] = setting(
        ["ghost_029", "quest_015"], "Labels, beside the dense model.", max_length=64
    )
    tokens: int = setting(32, "Tokens to generate; 0 for none.", ge=0, le=1 << 16)
    texts: Count | None = _FIRST


class Quality(Section):
    """What the model itself says when it decodes under elimination."""

    continuation: Tokens = setting(
        64,
        "Last tokens of a text that are decoded, each query choosing for itself. What precedes them is read densely, or "
        "under a policy with `prefill: sparse`.",
    )
    policies: Annotated[list[entries_of(QualityEntry)], once("label")] = setting(
        _defaults(),
        "Policies, each with a label. Ratios are GQA-true: of the whole model where one threshold decides, of each KV head "
        "where a selector reads a fixed number of keys.",
        validate_default=True,
        min_length=1,
        max_length=200,
        examples=[[{"label": "ghost_030", "policy": "ghost", "ratio": 0.3}]],
    )
    headline: dict[str, str] = setting(
        {"identity": "identity", "mass": "mass_1pct", "budget": "ghost_029"},
        "Labels that headline figures quote, fixed before held-out text is read: elimination off, the certificate, and the "
        "best policy within `budget`, which is held against the strongest rival there.",
    )
    budget: Share = setting(0.30, "GQA-true bytes ratio that the headline policy may reach.")
    block: Count = setting(16, "Positions of a block that the bootstrap draws.")
    replicates: int = setting(1000, "Bootstrap replicates.", ge=1, le=100_000)
    ablation: Ablation = part(Ablation)
    generation: Generation = part(Generation)
    threads: Threads = setting(1, "Threads of a job.")
    seed: Seed = setting(0, "Seed of the bootstrap.")

    def of_text(self, number: int) -> Quality:
        """What is asked of the held-out text of this number in its domain, counted from 0."""

        def asked(texts: int | None) -> bool:
            return texts is None or number < texts

        ablation, generation = self.ablation, self.generation
        return self.model_copy(
            update={
                "policies": [one for one in self.policies if asked(one.texts)],
                "ablation": ablation
                if asked(ablation.texts)
                else ablation.model_copy(update={"policy": None}),
                "generation": generation
                if asked(generation.texts)
                else generation.model_copy(update={"tokens": 0}),
            }
        )

    @model_validator(mode="after")
    def _texts(self) -> Quality:
        decoded = {entry.label: entry.texts for entry in self.policies}
        if None not in decoded.values():
            raise ConfigError(
                "config: quality.policies limits the `texts` of every policy, so that nothing is measured on all held-out texts. "
                f"Accepted: one policy at least without it.\n  Write: texts: null   (in {self.policies[0].label})"
            )
        used = [("ablation", self.ablation.policy, self.ablation.texts)] if self.ablation.policy else []
        used += [("generation", label, self.generation.texts) for label in self.generation.policies]
        for where, label, texts in used:
            most = decoded.get(label)
            if most is not None and (texts is None or texts > most):
                raise ConfigError(
                    f"config: quality.{where}.texts is {'null' if texts is None else texts}, but its policy {label} decodes "
                    f"texts: {most} of each domain.\n  Write: texts: {most}   (under quality.{where})"
                )
        return self

    @model_validator(mode="after")
    def _labels(self) -> Quality:
        labels = [entry.label for entry in self.policies]
        wanted = {f"headline.{key}": label for key, label in self.headline.items()}
        wanted |= {"ablation.policy": self.ablation.policy} if self.ablation.policy else {}
        wanted |= {f"generation.policies[{i}]": label for i, label in enumerate(self.generation.policies)}
        for where, label in wanted.items():
            if label not in labels:
                raise ConfigError(
                    f"config: quality.{where} is {label}, and no policy has that label. Accepted: {', '.join(labels)}.\n"
                    f"  Write: {where.split('.')[-1].split('[')[0]}: {labels[0]}   (or add the policy to quality.policies)"
                )
        odd = sorted(set(_HEADLINE) ^ set(self.headline))
        if odd:
            lacks = odd[0] in _HEADLINE
            raise ConfigError(
                f"config: quality.headline {'lacks' if lacks else 'has'} {odd[0]}. Accepted: {', '.join(_HEADLINE)}.\n"
                f"  Write: {'a label for it' if lacks else 'those three and no other'}   (under quality.headline)"
            )
        return self
