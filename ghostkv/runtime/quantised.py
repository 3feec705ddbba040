"""A cache of fewer bits in the model's seat: read whole, or with another decider over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ghostkv.elimination.attention import softmax
from ghostkv.quantised.base import CacheType
from ghostkv.runtime.call_views import CallView, views
from ghostkv.runtime.deciders import Call, Decider
from ghostkv.runtime.ghost_decider import GhostDecider
from ghostkv.runtime.traffic import COLUMNS, Rows, made, rows_of

# What is read of cold K and V themselves, which a cache type makes smaller.
_OF_THE_CACHE = [COLUMNS.index(name) for name in ("survivor_bytes", "head_survivor_bytes")]


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
        """All tokens of the call, those that are new written: keys and values as views of the room they lie in."""
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
            counts[:, b, h, some] = visible, cold, self.price(view, call.pair)
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

    def price(self, view: CallView, pair: float) -> np.ndarray:
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
    """Ghost records over a cache of this type: of keys as they are read back, and survivors are read so.

    Sinks and hot window are in fp16. A token leaves the hot window from one query to the next, so queries come one by one.
    """

    decider: GhostDecider
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
        held = replace(call, **dict(zip(("keys", "values"), state.write(self.kind, call), strict=True)))
        self.decider.remember(state.inner, held)
        found = []
        for t in range(call.query.shape[2]):
            one = held.part(t, t + 1)
            with _exact(one, call):
                found.append(self.decider.attend(state.inner, one))
        share = self.kind.pair_bytes(call.keys.shape[3], call.values.shape[3]) / call.pair
        outputs, rows = zip(*found, strict=True)
        return np.concatenate(outputs, axis=1), partial(_smaller, rows, share)


@contextmanager
def _exact(one: Call, call: Call) -> Iterator[None]:
    """Sinks and hot window of a query put among what was written, and taken out again."""
    stop, places = one.keys.shape[2], []
    for b, first in enumerate(call.first.tolist()):
        places += [
            (b, slice(first, min(first + call.sinks, stop))),
            (b, slice(max(first, stop - call.hot), stop)),
        ]
    pairs = ((one.keys, call.keys), (one.values, call.values))
    kept = [(held, b, some, held[b, :, some].copy()) for held, _ in pairs for b, some in places]
    for held, own in pairs:
        for b, some in places:
            held[b, :, some] = own[b, :, some]
    try:
        yield
    finally:
        for held, b, some, numbers in kept:
            held[b, :, some] = numbers


def _smaller(parts: Sequence[Rows], share: float) -> np.ndarray:
    rows = np.concatenate([made(part) for part in parts])
    rows[:, _OF_THE_CACHE] *= share
    return rows
