"""Tables of the historical stage: each protocol as one row, knobs alone and knobs one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ghostkv.stages.historical.protocol import (
    CORRECT,
    HISTORICAL,
    KNOBS,
    REASONS,
    Protocol,
    ProtocolOutcome,
    at_thetas,
    best,
)
from ghostkv.stages.historical.view import LayerView


def ladder() -> list[tuple[str, Protocol]]:
    """The historical protocol, then its knobs put right one after the other."""
    steps, protocol = [("none", HISTORICAL)], HISTORICAL
    for knob in KNOBS:
        protocol = protocol.switched(knob)
        steps.append((knob, protocol))
    return steps


def protocols() -> list[Protocol]:
    """Every protocol that a table needs, once."""
    alone = [start.switched(knob) for start in (HISTORICAL, CORRECT) for knob in KNOBS]
    return list(dict.fromkeys([protocol for _, protocol in ladder()] + [CORRECT] + alone))


class Tally:
    """One protocol's figures, added up layer by layer: at the target `fer`, over the historical grid of `thetas`; a
    safe point must reach `elimination`.
    """

    def __init__(self, fer: float, elimination: float, thetas: np.ndarray):
        self._fer, self._elimination, self._thetas = fer, elimination, thetas
        self._layers: list[dict[str, Any]] = []

    def add(
        self, protocol: Protocol, outcome: ProtocolOutcome, views: list[LayerView], agreement: float
    ) -> None:
        """Add one layer, all its texts pooled."""
        cold = outcome.cold.shape[1]
        grid = not (protocol.free_theta or protocol.relative)
        eliminated, lost = at_thetas(outcome, self._thetas) if grid else (None, None)
        if grid:
            # Keeping everything is always open to the historical protocol too.
            reached = np.where(lost <= self._fer, eliminated, 0.0).max(axis=1)
        else:
            reached, _ = best(outcome, self._fer)
        self._layers.append(
            {
                "reached": reached,
                "eliminated": eliminated,
                "lost": lost,
                "violations": outcome.violations.sum() / max(cold * len(reached), 1),
                "ranks": outcome.ranks.mean(axis=1),
                "oracle": outcome.oracle,
                "agreement": agreement,
                "cold": cold,
                "cold_share": cold / sum(view.visible.sum() for view in views),
                "tokens": np.mean(np.concatenate([view.visible.sum(axis=1) for view in views])),
                "queries": sum(len(view.positions) for view in views),
            }
        )

    def row(self) -> dict[str, Any]:
        """Means over layers and heads; figures of elimination are None where no key was cold."""
        reached = np.concatenate([layer["reached"] for layer in self._layers])
        shares = np.concatenate([layer["reached"] * layer["cold_share"] for layer in self._layers])
        some = any(layer["cold"] for layer in self._layers)

        def mean(name: str) -> float:
            return float(np.mean([layer[name] for layer in self._layers]))

        centred, uncentred = np.mean([layer["ranks"] for layer in self._layers], axis=0)
        return {
            "elimination": float(reached.mean()) if some else None,
            "cold_share": mean("cold_share"),
            "eliminated_share": float(shares.mean()),
            "elimination_one_theta": self._one_theta() if some else None,
            # Of all visible keys, so that a prompt with five cold keys counts as no safe point.
            "safe_head_share": float((shares >= self._elimination).mean()),
            "oracle_elimination": mean("oracle") if some else None,
            "violation_rate": mean("violations") if some else None,
            "rank_correlation": float(centred),
            "rank_correlation_uncentred": float(uncentred),
            "relevant_agreement": mean("agreement"),
            "tokens": mean("tokens"),
            "queries": self._layers[0]["queries"],
            "heads": len(reached),
        }

    def _one_theta(self) -> float | None:
        if self._layers[0]["eliminated"] is None:
            return None
        eliminated, lost = (
            np.concatenate([layer[name] for layer in self._layers]).mean(axis=0)
            for name in ("eliminated", "lost")
        )
        return float(np.where(lost <= self._fer, eliminated, 0.0).max())


def knob_rows(rows: Mapping[Protocol, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each knob turned alone: put right in the historical protocol, put wrong in the corrected one."""
    table = []
    for direction, start in (("from_historical", HISTORICAL), ("from_correct", CORRECT)):
        table.append(_row(direction, 0, "none", rows[start]))
        table += [
            _row(direction, step, knob, rows[start.switched(knob)])
            for step, knob in enumerate(KNOBS, start=1)
        ]
    return table


def ablation_rows(rows: Mapping[Protocol, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Knobs put right one after the other."""
    return [_row("cumulative", step, knob, rows[protocol]) for step, (knob, protocol) in enumerate(ladder())]


def _row(direction: str, step: int, knob: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    fault, remedy = REASONS.get(knob, ("", ""))
    return {"direction": direction, "step": step, "knob": knob, "fault": fault, "remedy": remedy, **figures}
