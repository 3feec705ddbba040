"""Who decides what a layer reads while a model decodes: one interface for ghost records and every peer.

A decider belongs to one layer. It keeps a state for each sequence that is decoded (its index of the keys, which
grows as tokens are appended), and turns queries, cache and state into attention output and counts of bytes. Arrays
are NumPy; nothing here knows of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.files.errors import ConfigError
from ghostkv.runtime.finite import refuse_unfit
from ghostkv.runtime.traffic import Rows


@dataclass(frozen=True)
class Call:
    """One call of a layer's attention."""

    query: np.ndarray  # float32 [batch, heads, queries, head_dim]
    # [batch, kv_heads, tokens, dim]; the cache, the queries' own tokens last, each KV head in one piece. float32, or bfloat16
    # as uint16 for a decider that reads it.
    keys: np.ndarray
    values: np.ndarray
    first: np.ndarray  # int64 [batch]; left padding of each row: its first visible token
    past: int  # tokens before the first query
    scale: float
    softcap: float
    sinks: int
    hot: int
    shared: bool  # all heads of a group attend to the union of the group's survivors
    layer: int  # which layer of the model calls

    @property
    def group(self) -> int:
        return self.query.shape[1] // self.keys.shape[1]

    @property
    def pair(self) -> float:
        """Bytes of one key and value in fp16."""
        return float(ELEMENT_BYTES * (self.keys.shape[3] + self.values.shape[3]))

    def part(self, start: int, stop: int | None = None) -> Call:
        """Some of the queries, as a call of their own."""
        stop = self.query.shape[2] if stop is None else stop
        if stop - start == self.query.shape[2]:
            return self
        end = self.past + stop
        return replace(
            self,
            query=np.ascontiguousarray(self.query[:, :, start:stop]),
            keys=self.keys[:, :, :end],
            values=self.values[:, :, :end],
            past=self.past + start,
        )

    def refuse_unfit(self, begin: int = 0, out: np.ndarray | None = None) -> None:
        """See `ghostkv.runtime.finite.refuse_unfit`; without `out` the call alone is looked at."""
        out = self.empty()[:, :0] if out is None else out
        refuse_unfit(self.layer, (self.query, self.keys, self.values), out, self.first, self.past, begin)

    def empty(self) -> np.ndarray:
        """Room for the output, float32 of shape [batch, queries, heads, value_dim]."""
        batch, heads, queries, _ = self.query.shape
        return np.empty((batch, queries, heads, self.values.shape[3]), np.float32)


class Decider:
    """Base of all deciders; subclasses set `name` and define `start` and `attend`."""

    name = ""
    # Whether `observe` must see the queries of a dense prefill.
    observes = False
    # Whether it takes a cache of bfloat16 as it is; else a copy in float32 is made of it.
    reads_bfloat16 = False

    def __deepcopy__(self, memo: dict) -> Decider:
        """Nothing in it ever changes; a copied cache or model has the same."""
        return self

    def continues(self, other: Decider) -> bool:
        """Whether it can go on with what another decider remembers of a sequence."""
        return other is self

    def start(self) -> Any:
        """A fresh state for the sequences of a batch.

        It must have `truncate(tokens)`, which forgets later tokens, and `select(rows)`, which takes rows of the batch in
        another order, more than once, or not at all.
        """
        raise NotImplementedError

    def check(self, heads: int, kv_heads: int, head_dim: int, where: str) -> None:
        """Refuse a layer of another shape than what was fitted."""

    def observe(self, state: Any, call: Call) -> None:
        """See the queries of a dense prefill."""

    def attend(self, state: Any, call: Call) -> tuple[np.ndarray, Rows]:
        """Output [batch, queries, heads, value_dim], and rows of `traffic.COLUMNS`, one a query, as `Traffic.add` takes them.

        Raises
        ------
        ModelError
            Queries, keys, values or the output are not finite.
        """
        raise NotImplementedError


def refuse_misfit(where: str, fitted: Sequence[int], found: Sequence[int]) -> None:
    """Refuse what was fitted for other heads, KV heads and head_dim than those found.

    Raises
    ------
    ConfigError
        They differ.
    """
    if tuple(fitted) != tuple(found):
        raise ConfigError(
            f"{where}: the policy was fitted for {fitted[0]} heads, {fitted[1]} KV heads and head_dim {fitted[2]}; what "
            f"attends has {found[0]}, {found[1]} and {found[2]}. Accepted: codecs and thetas of this very model.\n"
            "  Fit it with this model: ghostkv.fit, or capture and sketch of the workflow."
        )
