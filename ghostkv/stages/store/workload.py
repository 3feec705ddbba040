"""What the trials of a store append, and how they see whether it came back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ghostkv.files.io import stable_seed
from ghostkv.store import GhostStore, StoreShape

if TYPE_CHECKING:
    from ghostkv.stages.store.jobs import TimeStore, TryStore


@dataclass(frozen=True)
class Contents:
    """Keys, values and records of a token, known without having been kept: token t is row t mod rows."""

    shape: StoreShape
    keys: np.ndarray  # float16 [rows, layers, kv_heads, dim]
    values: np.ndarray  # the same
    records: np.ndarray  # uint8 [rows, layers, kv_heads, record_bytes]

    @classmethod
    def random(cls, shape: StoreShape, rows: int, seed: int) -> Contents:
        """Random bits, which no compression and no accident reproduces; the number of rows should not be a
        multiple of a segment."""
        rng = np.random.default_rng(stable_seed("store", seed, rows))
        outer = (rows, shape.layers, shape.kv_heads)

        def bits(width: int) -> np.ndarray:
            # Below 0x7c00 every pattern is a number, so that arrays compare as numbers too.
            return rng.integers(0, 0x7C00, (*outer, width), np.uint16).view(np.float16)

        records = rng.integers(0, 256, (*outer, shape.record_bytes), np.uint8)
        return cls(shape, bits(shape.head_dim), bits(shape.value_dim), records)

    def tokens(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What to append for these tokens."""
        index = np.arange(first, stop) % len(self.keys)
        return self.keys[index], self.values[index], self.records[index]

    def same(self, store: GhostStore, tokens: int) -> bool:
        """Whether the first tokens of a store are these, bit by bit, read through the map and by blocks."""
        keys, values, records = self.tokens(0, tokens)
        layer, kv_head = np.indices((self.shape.layers, self.shape.kv_heads))
        where = layer, kv_head, np.arange(tokens)[:, None, None]
        found = store.gather(*where)
        blocks = store.read(*where)
        held = [
            [store.records(layer, head)[:tokens] for head in range(self.shape.kv_heads)]
            for layer in range(self.shape.layers)
        ]
        return (
            all(np.array_equal(part, keys) for part in (found[0], blocks.keys))
            and all(np.array_equal(part, values) for part in (found[1], blocks.values))
            and np.array_equal(np.array(held).transpose(2, 0, 1, 3), records)
        )


def store_shape(job: TryStore | TimeStore, layers: int, segment_tokens: int) -> StoreShape:
    """The shape of a trial's store."""
    width = job.head_dim
    return StoreShape(layers, job.kv_heads, width, width, job.record_bytes, segment_tokens=segment_tokens)


def batches(shape: StoreShape, tokens: int, seed: int) -> Iterator[int]:
    """Sizes of successive appends that add up to `tokens`: mostly a decode's single tokens, some chunks, now and
    then a prefill of several segments."""
    rng, left = np.random.default_rng(stable_seed("batches", seed)), tokens
    while left:
        kind = rng.random()
        size = 1 if kind < 0.6 else int(rng.integers(2, shape.segment_tokens + 2))
        if kind > 0.93:
            size = int(rng.integers(1, 4)) * shape.segment_tokens + int(rng.integers(0, 3))
        yield min(size, left)
        left -= min(size, left)
