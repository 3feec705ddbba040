"""Counts of a call that is decided KV head by KV head."""

from __future__ import annotations

import numpy as np

from ghostkv.elimination.attention import ColdRange
from ghostkv.runtime.deciders import Call
from ghostkv.runtime.traffic import rows_of


class Ledger:
    """Counts of a call that is decided KV head by KV head; a survivor costs its K and V, or so many bytes."""

    def __init__(self, call: Call, survivor: float | None = None):
        shape = (*call.keys.shape[:2], call.query.shape[2])
        self.pair, self.survivor = call.pair, call.pair if survivor is None else survivor
        self.visible, self.cold, self.united = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self.records, self.head_records = np.zeros(shape), np.zeros(shape)
        self.own = np.zeros((*shape, call.group))

    def add(self, b, h, some, visible: ColdRange, own: np.ndarray, records, head_records) -> None:
        """Count one KV head; `own` [group, queries, keys] are each head's survivors."""
        self.visible[b, h, some], self.cold[b, h, some] = visible.visible, visible.cold
        self.own[b, h, some] = own.sum(axis=2).T
        self.united[b, h, some] = own.any(axis=0).sum(axis=1)
        self.records[b, h, some], self.head_records[b, h, some] = records, head_records

    def rows(self, **certificate: np.ndarray) -> np.ndarray:
        """Rows of `traffic.COLUMNS`, one a query; `certificate` as `rows_of` takes it."""
        return rows_of(
            self.visible, self.cold, self.united, self.own, self.pair, self.records, self.head_records,
            self.survivor, **certificate,
        )  # fmt: skip
