"""Policies as a whole config means them: what an entry leaves open is what the sections say that decide it."""

from __future__ import annotations

from typing import Any

from ghostkv.config.experiment import Config
from ghostkv.config.policies import BRANCHES, PolicyOptions, SomePolicy


def usual(config: Config) -> dict[str, Any]:
    """What a policy takes from other sections where it says nothing itself."""
    return {
        "sinks": config.frontier.sinks,
        "hot": config.frontier.hot,
        "levels": tuple(config.certificates.levels),
        "shares": tuple(config.certificates.shares),
        "seed": config.peers.seed,
    }


def resolve(entry: PolicyOptions, config: Config, **changes: Any) -> SomePolicy:
    """The policy that an entry means: no option is left open, and the section's own keys are gone."""
    branch, given = next(one for one in BRANCHES if isinstance(entry, one)), usual(config)
    values = {name: given.get(name) if value is None else value for name, value in entry}
    return branch(**{name: values[name] for name in branch.model_fields} | changes)
