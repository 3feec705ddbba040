"""What is found of one KV head on one text, block of queries by block of queries, until all of them make rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.elimination.attention import ColdRange
from ghostkv.elimination.ledger import Outcome
from ghostkv.elimination.truth import Oracle
from ghostkv.stages.certificates.schemas import DITHERED, NESTED
from ghostkv.stages.certificates.tables import CertificateTables

if TYPE_CHECKING:
    from ghostkv.config.capture import QueryBand


@dataclass(frozen=True)
class Proved:
    """One certificate of one design."""

    design: str
    record_bytes: float
    storages: tuple[str, ...]  # of K, each with an account of its own
    certificate: str  # topk or mass
    target: float  # dropped mass that no query may exceed; 0 for topk
    decision: str = "head"  # who chooses what is left out: each head by itself, or its group
    key_share: float = 0.5  # of the bytes of a K and V
    failure: float = 0.0  # probability that the promise is broken, over a codec's coins
    constant_keys: float = 0.0  # what the codec's arrays take, in K and V of one key


@dataclass(frozen=True)
class _Judged:
    """What a certificate did to a block of queries."""

    outcome: Outcome  # without what was decided of each key
    oracle: Oracle
    visible: ColdRange
    norms: np.ndarray  # [group, queries]; empty without values


@dataclass(frozen=True)
class Findings:
    """Checks and outcomes of one KV head on one text; all designs but the cascade take one query in `compared_every`."""

    compared_every: int
    # Pairs checked and violations, by design and level; a design's outcomes by what they prove.
    checks: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    outcomes: dict[str, dict[Proved, list[_Judged]]] = field(default_factory=dict)

    def add_check(self, design: str, level: int, checks: int, violations: int) -> None:
        """Count a block's checks of a level's margins."""
        known = self.checks.setdefault(design, {})
        before = known.get(level, (0, 0))
        known[level] = (before[0] + checks, before[1] + violations)

    def add_outcome(
        self, proved: Proved, outcome: Outcome, oracle: Oracle, visible: ColdRange, norms: np.ndarray
    ) -> None:
        """Keep what a block's rows need, parameters as for `CertificateTables.add_outcome`."""
        blocks = self.outcomes.setdefault(proved.design, {}).setdefault(proved, [])
        blocks.append(_Judged(outcome.light(), oracle, visible, norms))

    def write(
        self, tables: CertificateTables, about: Mapping, capture: LayerCapture, bands: Sequence[QueryBand]
    ) -> None:
        """Add the rows of all blocks together; `about` holds layer, kv_head, text, domain.

        Parameters
        ----------
        capture : LayerCapture
            With the queries of all blocks.
        bands : sequence of QueryBand
            Positions that are also reported apart.
        """
        heads = capture.heads_of(list(capture.kv_numbers).index(about["kv_head"]))
        inside = {
            (band.start, band.stop): (capture.positions >= band.start) & (capture.positions < band.stop)
            for band in bands
        }
        for design, levels in self.checks.items():
            keys = {**about, "design": design}
            for level, counted in levels.items():
                tables.add_check(keys, "margin", *counted, level=level)
            for proved, blocks in self.outcomes[design].items():
                judged = self._write_outcome(tables, keys, heads, proved, blocks)
                for (start, stop), within in inside.items() if design in (NESTED, DITHERED) else ():
                    some = within if design == NESTED else within[:: self.compared_every]
                    if some.any():
                        facts = {
                            name: getattr(proved, name)
                            for name in ("design", "certificate", "target", "decision")
                        }
                        where = {"window": capture.window, "band_start": start, "band_stop": stop}
                        tables.add_context({**about, **facts, **where}, heads, *judged, some)

    def _write_outcome(
        self, tables, keys: Mapping, heads: np.ndarray, proved: Proved, blocks: list[_Judged]
    ) -> tuple[Outcome, Oracle, ColdRange]:
        outcome = Outcome.joined([block.outcome for block in blocks])
        norms = np.concatenate([block.norms for block in blocks], axis=1)
        oracle = Oracle(
            *(
                np.concatenate(parts, axis=-1)
                for parts in zip(*(block.oracle for block in blocks), strict=True)
            )
        )
        visible = ColdRange(*map(np.concatenate, zip(*(block.visible for block in blocks), strict=True)))
        facts = {
            name: getattr(proved, name)
            for name in ("record_bytes", "certificate", "target", "decision", "failure")
        }
        facts |= _steps(proved, outcome, oracle, visible) if proved.design == NESTED else {}
        for storage in proved.storages:
            tables.add_outcome(
                keys, heads, {**facts, "storage": storage}, outcome, oracle.elimination, visible.cold, norms
            )
        return outcome, oracle, visible


def _steps(proved: Proved, outcome: Outcome, oracle: Oracle, visible: ColdRange) -> dict[str, float]:
    """Bytes ratios on the way from exact scores to the certificate, means over queries; K and V alone, no record."""
    share, cold, exact = proved.key_share, visible.cold, visible.visible - visible.cold

    def read(keys: np.ndarray, values: np.ndarray) -> float:
        return float(((exact + share * keys + (1 - share) * values) / visible.visible).mean())

    found = {"constants_bytes_ratio": float((proved.constant_keys / visible.visible).mean())}
    for name, left_out in (
        ("oracle_bytes_ratio", oracle.elimination),
        ("oracle_bytes_ratio_gqa", oracle.united),
    ):
        found[name] = read((1 - left_out) * cold, (1 - left_out) * cold)
    if proved.decision == "group":
        # All heads keep the same.
        keys, values = ((1 - part[0]) * cold for part in (outcome.elimination, outcome.values_unread))
        found["kept_bytes_ratio_gqa"] = read(keys, values)
    return found
