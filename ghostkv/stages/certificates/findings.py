"""What is found of one KV head on one text, block of queries by block of queries, until all of them make rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ghostkv.elimination.ledger import Outcome
from ghostkv.stages.certificates.tables import CertificateTables


@dataclass(frozen=True)
class Proved:
    """One certificate of one design."""

    design: str
    record_bytes: float
    storages: tuple[str, ...]  # of K, each with an account of its own
    certificate: str  # topk or mass
    target: float  # dropped mass that no query may exceed; 0 for topk
    decision: str = "head"  # who chooses what is left out: each head by itself, or its group


@dataclass(frozen=True)
class _Judged:
    """What a certificate did to a block of queries."""

    outcome: Outcome  # without what was decided of each key
    oracle: np.ndarray  # [group, queries]
    cold: np.ndarray  # [queries]
    norms: np.ndarray  # [group, queries]; empty without values


@dataclass(frozen=True)
class Findings:
    """Checks and outcomes of one KV head on one text."""

    # Pairs checked and violations, by design and level; a design's outcomes by what they prove.
    checks: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    outcomes: dict[str, dict[Proved, list[_Judged]]] = field(default_factory=dict)

    def add_check(self, design: str, level: int, checks: int, violations: int) -> None:
        """Count a block's checks of a level's margins."""
        known = self.checks.setdefault(design, {})
        before = known.get(level, (0, 0))
        known[level] = (before[0] + checks, before[1] + violations)

    def add_outcome(
        self, proved: Proved, outcome: Outcome, oracle: np.ndarray, cold: np.ndarray, norms: np.ndarray
    ) -> None:
        """Keep what a block's rows need, parameters as for `CertificateTables.add_outcome`."""
        blocks = self.outcomes.setdefault(proved.design, {}).setdefault(proved, [])
        blocks.append(_Judged(outcome.light(), oracle, cold, norms))

    def write(self, tables: CertificateTables, about: Mapping, heads: np.ndarray) -> None:
        """Add the rows of all blocks together, with numbers of heads [group]; `about` holds layer, kv_head, text, domain."""
        for design, levels in self.checks.items():
            keys = {**about, "design": design}
            for level, counted in levels.items():
                tables.add_check(keys, "margin", *counted, level=level)
            for proved, blocks in self.outcomes[design].items():
                self._write_outcome(tables, keys, heads, proved, blocks)

    def _write_outcome(
        self, tables, keys: Mapping, heads: np.ndarray, proved: Proved, blocks: list[_Judged]
    ) -> None:
        outcome = Outcome.joined([block.outcome for block in blocks])
        oracle, norms = (
            np.concatenate([getattr(block, name) for block in blocks], axis=1) for name in ("oracle", "norms")
        )
        cold = np.concatenate([block.cold for block in blocks])
        facts = {
            name: getattr(proved, name) for name in ("record_bytes", "certificate", "target", "decision")
        }
        for storage in proved.storages:
            tables.add_outcome(keys, heads, {**facts, "storage": storage}, outcome, oracle, cold, norms)
