"""Which policies share a line of the charts: those that differ in bytes alone."""

from __future__ import annotations

from typing import Any

from ghostkv.config.experiment import Config
from ghostkv.config.policies import QuantisedPolicy, SelectorPolicy, SomePolicy
from ghostkv.config.quality import Quality
from ghostkv.config.resolved import usual
from ghostkv.config.selectors import selector_options

# What a policy is called, and what sets its bytes.
_APART = ("label", "policy", "selector", "ratio", "theta", "delta", "target")


def family_of(policy: SomePolicy, config: Config) -> str:
    """The method's name, and every option that differs from the method's defaults.

    The defaults of a selector are those of the default config, which are the papers' own.
    """
    fields = type(policy).model_fields
    given = {name: field.default for name, field in fields.items()} | usual(config)
    odd = {name: value for name, value in policy if name not in _APART and value != given[name]}
    if isinstance(policy, QuantisedPolicy):
        # Integers of other bits differ in bytes alone.
        kind = policy.cache.rstrip("0123456789") if policy.cache.startswith("int") else policy.cache
        return "_".join([policy.policy, kind, *_words({name: odd[name] for name in odd if name != "cache"})])
    if not isinstance(policy, SelectorPolicy):
        return "_".join([policy.policy, *_words(odd)])
    # Policy `ghost` has one threshold for the model; a selector spends the same records in a column, which is always said.
    odd |= {"column": policy.column} if policy.selector.name == "ghost" else {}
    options = selector_options(policy.selector.name)
    wanted = options | _listed(policy.selector.name)
    chosen = {**options, **policy.selector.plain()}
    own = {name: chosen[name] for name in options if chosen[name] != wanted[name]}
    # One hyperparameter needs no name.
    own = list(map(str, own.values())) if len(options) == 1 else _words(own)
    return "_".join([policy.selector.name, *own, *_words(odd)])


def _listed(name: str) -> dict[str, Any]:
    """Hyperparameters of the first entry of the default config that seats a selector."""
    entries = Quality.model_fields["policies"].default
    seated = (entry["selector"] for entry in entries if entry["policy"] == "selector")
    return next((entry for entry in seated if entry["name"] == name), {})


def _words(options: dict[str, Any]) -> list[str]:
    said = {
        ("compensate", False): "plain",
        ("column", "alone"): "alone",
        ("column", "one_budget"): "one_budget",
        ("column", "compensated"): "compensated",
    }
    return [said.get((name, value)) or f"{name}_{_text(value)}" for name, value in options.items()]


def _text(value: Any) -> str:
    return "_".join(map(str, value)) if isinstance(value, list | tuple) else str(value).lower()
