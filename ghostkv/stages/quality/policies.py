"""What runs for each policy of stage `quality`, with the thetas that were fitted once for all texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ghostkv.files.io import read_table
from ghostkv.runtime.load_policy import Sources, load_policy
from ghostkv.runtime.policy import Policy
from ghostkv.runtime.seated import OBSERVERS
from ghostkv.stages.quality.schemas import THETA_SCHEMA

if TYPE_CHECKING:
    from ghostkv.config.policies import SomePolicy


class Policies:
    """Builds policies one after the other.

    Parameters
    ----------
    thetas : path
        Table of `fit_thetas`.
    """

    def __init__(self, policies: Iterable[SomePolicy], thetas: str, sources: Sources):
        self.by_label = {policy.label: policy for policy in policies}
        self.thetas = dict(read_table(thetas, THETA_SCHEMA).select("policy", "theta").iter_rows())
        self.sources = sources

    def make(self, label: str, **changes: Any) -> Policy:
        """The policy of a label, with other options where `changes` says so."""
        if label in self.thetas:
            changes = {"ratio": None, "theta": self.thetas[label]} | changes
        return load_policy(self.by_label[label].model_copy(update=changes), self.sources)

    def observer(self) -> Policy | None:
        """A policy that watches the prefill for all that must, if any does: the one that looks back furthest."""
        watching = {
            label: (policy.selector.model_extra or {}).get("observe", 0)
            for label, policy in self.by_label.items()
            if policy.policy == "selector" and policy.selector.name in OBSERVERS and policy.prefill == "dense"
        }
        return self.make(max(watching, key=watching.__getitem__)) if watching else None
