"""Our method: of all sizes of the record the one that lost least on threshold texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ghostkv.selectors.base import Selector

# How tables name the method, and what kind its rows have.
OURS, KIND = "ghost", "ours"


class SizeChoice:
    """Losses of every size of the record on threshold texts, and the best size of each KV head, column and ratio."""

    def __init__(self, ratios: Sequence[float]):
        self.ratios = tuple(ratios)
        self._losses: dict[tuple[int, str], dict[Selector, list[np.ndarray]]] = {}

    def add(self, kv_head: int, column: str, record: Selector, queries: Mapping[str, np.ndarray]) -> None:
        """Count one text; `queries` as `evaluate` returns them."""
        found = queries.get("output_error", queries["dropped_mass"])
        losses = self._losses.setdefault((kv_head, column), {})
        losses.setdefault(record, []).append(found.mean(axis=(1, 2)))

    def best(self, kv_head: int, column: str) -> list[tuple[Selector, float] | None]:
        """At each ratio the record of least mean loss, and that loss; None where none is feasible."""
        losses = self._losses[kv_head, column]
        records, means = list(losses), np.array([np.mean(one, axis=0) for one in losses.values()])
        means = np.where(np.isnan(means), np.inf, means)
        return [
            (records[at], float(means[at, r])) if np.isfinite(means[at, r]) else None
            for r, at in enumerate(means.argmin(axis=0))
        ]

    def rows(self, layer: int, numbers: Sequence[int]) -> Iterable[dict[str, Any]]:
        """Rows of `CHOICE_SCHEMA`; `numbers` are the model's own numbers of the KV heads."""
        for kv_head, column in self._losses:
            for ratio, best in zip(self.ratios, self.best(kv_head, column), strict=True):
                if best is not None:
                    yield {
                        "layer": layer, "kv_head": int(numbers[kv_head]), "column": column, "ratio": ratio,
                        "variant": best[0].variant, "loss": best[1],
                    }  # fmt: skip


def chosen(
    best: Sequence[tuple[Selector, float] | None],
    measured: Mapping[Selector, tuple[Mapping[str, np.ndarray], np.ndarray]],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the chosen sizes lost, put together ratio by ratio; queries and feasibility as of one selector."""
    some, _ = next(iter(measured.values()))
    queries = {name: np.full_like(values, np.nan) for name, values in some.items()}
    feasible = np.zeros(len(best), bool)
    for r, found in enumerate(best):
        if found is not None:
            values, fits = measured[found[0]]
            feasible[r] = fits[r]
            for name, into in queries.items():
                into[r] = values[name][r]
    return queries, feasible
