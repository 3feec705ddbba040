"""Attention of a layer whose cold K and V lie in a store: rows in memory are attended while the others are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ghostkv.runtime.packed_parts import attend_rows
from ghostkv.runtime.row_buffer import RowBuffer, widen_rows, widened
from ghostkv.store import GhostStore, Pending, Reads


@dataclass(frozen=True)
class DiskStep:
    """What a step found, and where."""

    out: np.ndarray  # float32 [heads, value_dim]
    # Of each KV head: positions that were in memory, those that were not, and K and V of the latter, float32
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    reads: Reads | None  # what reading touched; None where all was in memory

    @property
    def misses(self) -> int:
        """Rows that were read from the store."""
        return sum(len(missed) for _, missed, _, _ in self.rows)


class DiskAttention:
    """Decode steps of one layer over sinks, hot window and survivors.

    Survivors that the buffer holds are hits. The others are asked of the store first; hits are attended meanwhile, and what comes
    joins their sums (the log-sum-exp of both parts), part after part, when its checksums are right.
    """

    def __init__(
        self,
        store: GhostStore,
        layer: int,
        buffer: RowBuffer,
        scale: float,
        softcap: float = 0.0,
        threads: int = 8,
        direct: bool = False,
    ):
        """Over a store that holds every token of the buffer; `threads` and `direct` as in `GhostStore.begin`.

        Raises ValueError where the store holds no V.
        """
        if not store.shape.value_dim:
            raise ValueError("DiskAttention: the store holds keys alone, and attention needs values")
        self.store, self.layer, self.buffer = store, layer, buffer
        self.scale, self.softcap, self.threads, self.direct = scale, softcap, threads, direct

    def attend(self, queries: np.ndarray, survivors: Sequence[np.ndarray], overlap: bool = True) -> DiskStep:
        """Attention of the last token over what is exact and its survivors; changes nothing, so that it may be asked again.

        Without `overlap` all is read before any is attended.

        Parameters
        ----------
        queries : ndarray of float32, shape [heads, head_dim]
        survivors : sequence of ndarray of int64
            Positions of cold tokens, for each KV head.

        Raises
        ------
        StoreError
            A row is damaged, or the store was closed; there is no output then, and the buffer is as it was.
        """
        buffer, shape = self.buffer, self.store.shape
        survivors = [np.asarray(asked, np.int64) for asked in survivors]
        slots = [buffer.slots(kv_head, asked) for kv_head, asked in enumerate(survivors)]
        missed = [asked[at < 0] for asked, at in zip(survivors, slots, strict=True)]
        pending = self._begun(missed)
        if pending is not None and not overlap:
            pending.result()
        sums, exact = _Sums(queries, buffer, self.scale, self.softcap), buffer.exact()
        for kv_head, at in enumerate(slots):
            chosen = np.concatenate([exact, at[at >= 0]])
            sums.attend(kv_head, buffer.keys[kv_head], buffer.values[kv_head], chosen)
        edges = np.cumsum([0, *map(len, missed)])
        keys, values = (
            np.zeros((edges[-1], part.shape[2]), np.float32) for part in (buffer.keys, buffer.values)
        )
        for part in () if pending is None else pending.parts():
            widen_rows(pending.found.rows, part, shape.head_dim, shape.value_dim, keys, values)
            for kv_head, own in enumerate(np.split(part, np.searchsorted(part, edges[1:-1]))):
                sums.attend(kv_head, keys, values, own)
        rows = [
            (asked[at >= 0], gone, keys[first:last], values[first:last])
            for asked, at, gone, first, last in zip(
                survivors, slots, missed, edges[:-1], edges[1:], strict=True
            )
        ]
        reads = None if pending is None else pending.found.reads
        return DiskStep(sums.output()[:, : shape.value_dim], rows, reads)

    def _begun(self, missed: Sequence[np.ndarray]) -> Pending | None:
        """What is asked of the store for rows that each KV head lacks; None where all are there."""
        counts = [len(one) for one in missed]
        if not any(counts):
            return None
        heads = np.repeat(np.arange(len(counts)), counts)
        return self.store.begin(
            self.layer, heads, np.concatenate(missed), direct=self.direct, threads=self.threads
        )

    def keep(self, step: DiskStep) -> None:
        """End the step: what it read stays in memory, as far as there is room."""
        self.buffer.keep(step.rows)


class _Sums:
    """What the heads of a layer have attended to so far."""

    def __init__(self, queries: np.ndarray, buffer: RowBuffer, scale: float, softcap: float):
        kv_heads, group = len(buffer.keys), len(queries) // len(buffer.keys)
        self.scale, self.softcap = scale, softcap
        self.queries = widened(queries).reshape(kv_heads, group, -1)
        self.peak, self.mass = np.full((kv_heads, group), -np.inf), np.zeros((kv_heads, group))
        self.out = np.zeros((kv_heads, group, buffer.values.shape[2]), np.float32)

    def attend(self, kv_head: int, keys: np.ndarray, values: np.ndarray, chosen: np.ndarray) -> None:
        """Let the group of a KV head attend to chosen rows, beside all that it has attended to."""
        sums = self.peak[kv_head], self.mass[kv_head], self.out[kv_head]
        attend_rows(self.queries[kv_head], keys, values, chosen, self.scale, self.softcap, *sums)

    def output(self) -> np.ndarray:
        """Outputs of all heads, float32 [heads, width of values as they are held]."""
        return (self.out / self.mass[..., None].astype(np.float32)).reshape(-1, self.out.shape[2])
