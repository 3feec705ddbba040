"""What runs for each policy of stage `quality`, with what was fitted once for all texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ghostkv.files.io import read_table
from ghostkv.runtime.load_policy import load_policy
from ghostkv.runtime.policy import Policy
from ghostkv.runtime.seated import OBSERVERS
from ghostkv.runtime.sources import Sources
from ghostkv.stages.quality.schemas import DENSE_SCHEMA, THETA_SCHEMA

if TYPE_CHECKING:
    from ghostkv.config.policies import SomePolicy


class Policies:
    """Builds policies one after the other.

    Parameters
    ----------
    inputs : mapping
        Paths of the tables of `fit_policies`.
    """

    def __init__(self, policies: Iterable[SomePolicy], inputs: Mapping[str, Any], sources: Sources):
        self.by_label = {policy.label: policy for policy in policies}
        self.thetas = dict(read_table(inputs["thetas"], THETA_SCHEMA).select("policy", "theta").iter_rows())
        self.dense: dict[str, dict[int, list[int]]] = {}
        for label, layer, head, _ in read_table(inputs["dense"], DENSE_SCHEMA).iter_rows():
            self.dense.setdefault(label, {}).setdefault(layer, []).append(head)
        self.sources = sources

    def make(self, label: str, **changes: Any) -> Policy:
        """The policy of a label, with other options where `changes` says so."""
        policy = self.by_label[label]
        if label in self.thetas:
            # Of a ghost policy a threshold stands in place of the ratio that it was fitted for.
            fitted = {"theta": self.thetas[label]} | ({"ratio": None} if policy.policy == "ghost" else {})
            changes = fitted | changes
        policy = policy.model_copy(update=changes)
        return load_policy(policy, self.sources, self.dense.get(label, {}))

    def observer(self) -> Policy | None:
        """A policy that watches the prefill for all that must, if any does: the one that looks back furthest."""
        watching = {
            label: (policy.selector.model_extra or {}).get("observe", 0)
            for label, policy in self.by_label.items()
            if policy.policy == "selector" and policy.selector.name in OBSERVERS and policy.prefill == "dense"
        }
        return self.make(max(watching, key=watching.__getitem__)) if watching else None
