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

    def ranked(self, kv_head: int, column: str) -> list[list[tuple[Selector, float]]]:
        """At each ratio the records that fit, of least mean loss first, each with that loss."""
        losses = self._losses[kv_head, column]
        means = {record: np.mean(one, axis=0) for record, one in losses.items()}
        return [
            sorted(
                ((record, float(mean[r])) for record, mean in means.items() if np.isfinite(mean[r])),
                key=lambda one: one[1],
            )
            for r in range(len(self.ratios))
        ]

    def rows(self, layer: int, numbers: Sequence[int]) -> Iterable[dict[str, Any]]:
        """Rows of `CHOICE_SCHEMA`; `numbers` are the model's own numbers of the KV heads."""
        for kv_head, column in self._losses:
            for ratio, ranked in zip(self.ratios, self.ranked(kv_head, column), strict=True):
                for record, loss in ranked[:1]:
                    yield {
                        "layer": layer, "kv_head": int(numbers[kv_head]), "column": column, "ratio": ratio,
                        "variant": record.variant, "loss": loss,
                    }  # fmt: skip


def chosen(
    ranked: Sequence[Sequence[tuple[Selector, float]]],
    measured: Mapping[Selector, tuple[Mapping[str, np.ndarray], np.ndarray]],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the chosen sizes lost on a text, put together ratio by ratio; queries and feasibility as of one selector.

    A size may fit the threshold texts and, by a hair, not this one. Which sizes fit follows from the lengths alone, so the
    best that does is taken.
    """
    some, _ = next(iter(measured.values()))
    queries = {name: np.full_like(values, np.nan) for name, values in some.items()}
    feasible = np.zeros(len(ranked), bool)
    for r, records in enumerate(ranked):
        fitting = next((record for record, _ in records if measured[record][1][r]), None)
        if fitting is not None:
            feasible[r] = True
            for name, into in queries.items():
                into[r] = measured[fitting][0][name][r]
    return queries, feasible
