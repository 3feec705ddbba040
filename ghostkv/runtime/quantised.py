"""A cache of fewer bits in the model's seat: read whole, or with another decider over it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ghostkv.elimination.attention import softmax
from ghostkv.quantised.base import CacheType
from ghostkv.runtime.call_views import CallView, views
from ghostkv.runtime.deciders import Call, Decider
from ghostkv.runtime.traffic import COLUMNS, Rows, made, rows_of

# What is read of K and V themselves, which a cache type makes smaller.
_OF_THE_CACHE = [COLUMNS.index(name) for name in ("survivor_bytes", "hot", "head_survivor_bytes", "head_hot")]


@dataclass
class Written:
    """K and V of a layer as its cache type gives them back, and what a decider over them remembers."""

    inner: Any = None
    tokens: int = 0
    # float32 [batch, kv_heads, tokens or more, dim]
    keys: np.ndarray | None = None
    values: np.ndarray | None = None

    def truncate(self, tokens: int) -> None:
        """Forget tokens from `tokens` on."""
        self.tokens = min(self.tokens, tokens)
        if self.inner is not None:
            self.inner.truncate(tokens)

    def select(self, rows: np.ndarray) -> None:
        """Go on with these rows of the batch."""
        if self.keys is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]
        if self.inner is not None:
            self.inner.select(rows)

    def write(self, kind: CacheType, call: Call) -> tuple[np.ndarray, np.ndarray]:
        """All tokens of the call, those that are new written: keys and values as views of the room they lie in.

        Sinks stay as they are: what is read by every query, and of the largest keys, is not worth its error.
        """
        tokens = call.keys.shape[2]
        self.keys, self.values = (
            _roomy(held, own, self.tokens)
            for held, own in ((self.keys, call.keys), (self.values, call.values))
        )
        for b, first in enumerate(call.first.tolist()):
            # Those of an unfinished group are written again with the rest of it.
            begin = first + max(self.tokens - first, 0) // kind.together * kind.together
            for h in range(call.keys.shape[1]):
                self.keys[b, h, begin:tokens], self.values[b, h, begin:tokens] = kind.quantise(
                    call.keys[b, h, begin:], call.values[b, h, begin:]
                )
            kept = slice(first, first + call.sinks)
            self.keys[b, :, kept], self.values[b, :, kept] = call.keys[b, :, kept], call.values[b, :, kept]
        self.tokens = tokens
        return self.keys[:, :, :tokens], self.values[:, :, :tokens]


def _roomy(held: np.ndarray | None, own: np.ndarray, written: int) -> np.ndarray:
    batch, kv_heads, tokens, dim = own.shape
    if held is not None and held.shape[2] >= tokens:
        return held
    room = np.zeros((batch, kv_heads, tokens + tokens // 8 + 64, dim), np.float32)
    if written:
        room[:, :, :written] = held[:, :, :written]
    return room


@dataclass(frozen=True)
class WholeCache(Decider):
    """Read all of a quantised cache; sinks and hot window are in fp16, and whatever else the cache type keeps so."""

    kind: CacheType
    name: str = field(default="quantised", init=False)

    def start(self) -> Written:
        return Written()

    def attend(self, state: Written, call: Call) -> tuple[np.ndarray, np.ndarray]:
        call.refuse_unfit()
        keys, values = state.write(self.kind, call)
        out = np.zeros_like(call.empty())
        counts = np.zeros((3, *call.keys.shape[:2], call.query.shape[2]))
        counts[2] = call.pair
        for b, h, some, view in views(call):
            tokens = slice(int(call.first[b]), int(call.first[b]) + len(view.keys))
            read = replace(view, keys=keys[b, h, tokens], values=values[b, h, tokens])
            heads = slice(h * call.group, (h + 1) * call.group)
            out[b, some, heads] = self.output(view, read).transpose(1, 0, 2)
            visible, cold = view.visible.visible, view.visible.cold
            counts[:, b, h, some] = visible, cold, self._price(view, call.pair)
        call.refuse_unfit(call.keys.shape[2], out)
        visible, cold, price = counts
        own = np.repeat(cold[..., None], call.group, axis=3)
        nothing = np.zeros_like(cold)
        return out, rows_of(visible, cold, cold, own, call.pair, nothing, nothing, price)

    def output(self, view: CallView, read: CallView) -> np.ndarray:
        """Attention of a KV head's queries, each over what is in fp16 when it comes and what was written by then.

        Parameters
        ----------
        view, read : CallView
            With keys and values as they came, and as `CacheType.quantise` gives them.

        Returns
        -------
        ndarray of float32, shape [group, queries, value_dim]
        """
        tokens = np.arange(len(view.keys))
        warm = ~view.visible.mask(len(tokens))
        exact_keys, exact_values = (
            warm | (tokens >= begin[:, None]) for begin in self.kind.kept(view.visible.visible)
        )
        mass, _ = softmax(np.where(exact_keys, view.scores(), read.scores()), dtype=np.float32)
        nothing = np.float32(0.0)
        return (
            np.where(exact_values, nothing, mass) @ read.values
            + np.where(exact_values, mass, nothing) @ view.values
        )

    def _price(self, view: CallView, pair: float) -> np.ndarray:
        """Mean bytes of a cold key and value, by query."""
        start, cold = view.visible.start, view.visible.cold
        widths, price = (view.keys.shape[1], view.values.shape[1]), 0.0
        for number, begin in enumerate(self.kind.kept(view.visible.visible)):
            width = [own if place == number else 0 for place, own in enumerate(widths)]
            written = np.clip(begin - start, 0, cold)
            price = (
                price
                + written * self.kind.pair_bytes(*width)
                + (cold - written) * pair * sum(width) / sum(widths)
            )
        return np.divide(price, cold, out=np.full(len(cold), pair), where=cold > 0)


@dataclass(frozen=True)
class OverCache(Decider):
    """Another decider over a cache of this type: its records, survivors and hot window are of what was written, and sinks in fp16."""

    decider: Decider
    kind: CacheType

    @property
    def name(self) -> str:
        return self.decider.name

    def start(self) -> Written:
        return Written(self.decider.start())

    def check(self, heads: int, kv_heads: int, head_dim: int, where: str) -> None:
        self.decider.check(heads, kv_heads, head_dim, where)

    def attend(self, state: Written, call: Call) -> tuple[np.ndarray, Rows]:
        call.refuse_unfit()
        keys, values = state.write(self.kind, call)
        out, rows = self.decider.attend(state.inner, replace(call, keys=keys, values=values))
        share = self.kind.pair_bytes(call.keys.shape[3], call.values.shape[3]) / call.pair
        return out, partial(_smaller, rows, share, _sink_bytes(call), call.group)


def _sink_bytes(call: Call) -> np.ndarray:
    """Bytes of the sinks that each query sees, of all rows of the batch and all KV heads."""
    seen = call.past + 1 + np.arange(call.query.shape[2]) - call.first[:, None]
    return call.keys.shape[1] * call.pair * np.clip(seen, 0, call.sinks).sum(axis=0)


def _smaller(rows: Rows, share: float, sinks: np.ndarray, group: int) -> np.ndarray:
    rows = made(rows).copy()
    rows[:, _OF_THE_CACHE] *= share
    rows[:, COLUMNS.index("hot")] += (1 - share) * sinks
    rows[:, COLUMNS.index("head_hot")] += (1 - share) * sinks * group
    return rows
