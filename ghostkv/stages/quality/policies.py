"""Policies of stage `quality` from its config entries; what several share is fitted once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ghostkv.runtime.certified import CertifiedMass
from ghostkv.runtime.load_policy import Sources, load_policy
from ghostkv.runtime.policy import Policy
from ghostkv.runtime.seated import OBSERVERS

# Keys of an entry that are this stage's own.
OWN = ("positions",)
KINDS = {
    "identity": "identity",
    "certified_mass": "certified",
    "ghost": "ours",
    "calibrated": "ours",
    "oracle_mass": "oracle",
}


def kind_of(entry: Mapping[str, Any]) -> str:
    """`identity`, `certified`, `ours`, `oracle` or `peer`."""
    if entry["policy"] != "selector":
        return KINDS[entry["policy"]]
    name = entry["selector"]["name"]
    return "oracle" if name.startswith("oracle") else ("ours" if name == "ghost" else "peer")


def family_of(entry: Mapping[str, Any]) -> str:
    """Policies that differ in bytes alone share a family, which is a line of the charts."""
    if entry["policy"] == "selector":
        options = {key: value for key, value in entry["selector"].items() if key != "name"}
        plain = entry["selector"]["name"]
        # Quest's page of 16 is the paper's; what differs from the usual is part of the name.
        return plain if options.get("page", 16) == 16 else f"{plain}_{options['page']}"
    plain = entry["policy"]
    return plain + ("" if entry.get("compensate", True) else "_plain")


def target_of(entry: Mapping[str, Any]) -> float | None:
    """The bytes ratio, mass or risk that was asked for."""
    return next((float(entry[name]) for name in ("ratio", "delta", "target") if name in entry), None)


class Policies:
    """Builds policies one after the other; nested records of certified policies are fitted once.

    Parameters
    ----------
    entries : sequence of mapping
        Of config `quality.policies`.
    thetas : mapping of str to float
        Fitted threshold of each ghost policy, by label.
    sources : Sources
    """

    def __init__(self, entries: Sequence[Mapping[str, Any]], thetas: Mapping[str, float], sources: Sources):
        self.entries = {entry["label"]: entry for entry in entries}
        self.thetas, self.sources = thetas, sources
        self._certified: Policy | None = None

    def make(self, label: str, **changes: Any) -> Policy:
        """The policy of a label, with other options where `changes` says so."""
        entry = {key: value for key, value in self.entries[label].items() if key not in OWN} | changes
        if label in self.thetas:
            entry = {key: value for key, value in entry.items() if key != "ratio"}
            entry["theta"] = self.thetas[label]
        if entry["policy"] != "certified_mass" or set(entry) - {"label", "policy", "delta"}:
            return load_policy(entry, self.sources)
        if self._certified is None:
            self._certified = load_policy(entry, self.sources)
        delta = float(entry["delta"])
        deciders: dict[int, CertifiedMass] = {
            layer: replace(decider, delta=delta) for layer, decider in self._certified.deciders.items()
        }
        certificate = f"dropped mass <= {delta:g} for every query"
        return replace(
            self._certified, name=entry["label"], deciders=deciders, certificate=certificate, about=entry
        )

    def observer(self) -> Policy | None:
        """A policy that watches the prefill for all that must, if any does: the one that looks back furthest."""
        watching = {
            label: entry["selector"].get("observe", 0)
            for label, entry in self.entries.items()
            if entry["policy"] == "selector"
            and entry["selector"]["name"] in OBSERVERS
            and entry.get("prefill", "dense") == "dense"
        }
        return self.make(max(watching, key=watching.__getitem__)) if watching else None

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)
