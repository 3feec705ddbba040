"""A call of a layer's attention, taken apart into what one KV head of one row sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ghostkv.elimination.attention import ColdRange, cold_range, scores
from ghostkv.runtime.deciders import Call

# Queries decided at once: bounds the size of [group, queries, tokens].
_BLOCK = 256


@dataclass(frozen=True)
class CallView:
    """One KV head of one row of the batch, without its left padding: what `Scene` is made from."""

    keys: np.ndarray
    values: np.ndarray
    queries: np.ndarray
    positions: np.ndarray
    visible: ColdRange
    scale: float
    softcap: float

    def scores(self, out: np.ndarray | None = None) -> np.ndarray:
        """Exact scores, -inf where a key is not visible; float32, shape [group, queries, tokens]."""
        group, queries, width = self.queries.shape
        out = np.empty((group, queries, len(self.keys)), np.float32) if out is None else out
        flat = self.queries.reshape(-1, width)
        rows = out.reshape(-1, len(self.keys))
        return scores(flat, self.keys, self.scale, self.softcap, self.visible, rows).reshape(out.shape)


def views(call: Call, block: int = _BLOCK) -> Iterator[tuple[int, int, slice, CallView]]:
    """Every row, KV head and block of queries of a call: (row, KV head, slice of queries, CallView)."""
    group, queries = call.group, call.query.shape[2]
    for b in range(len(call.first)):
        first = int(call.first[b])
        for h in range(call.keys.shape[1]):
            for begin in range(max(first - call.past, 0), queries, block):
                some = slice(begin, min(begin + block, queries))
                # A query sees nothing later, so neither does its scene: the block ends with its last query's key.
                end = call.past + some.stop
                positions = np.arange(call.past + some.start, end) - first
                yield b, h, some, CallView(
                    call.keys[b, h, first:end], call.values[b, h, first:end],
                    np.ascontiguousarray(call.query[b, h * group : (h + 1) * group, some]),
                    positions, cold_range(positions, np.zeros_like(positions), call.sinks, call.hot),
                    call.scale, call.softcap,
                )  # fmt: skip
