"""Peers and oracles in the model's seat: any selector of the peers list decides what a layer reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ghostkv.codecs import Codec, Decoded
from ghostkv.elimination.attention import softmax
from ghostkv.files.buffers import Space
from ghostkv.files.errors import ModelError
from ghostkv.runtime.call_views import CallView, views
from ghostkv.runtime.combine import combine
from ghostkv.runtime.deciders import Call, Decider, refuse_misfit
from ghostkv.runtime.ledger import Ledger
from ghostkv.runtime.observations import Observations, joined
from ghostkv.selectors.base import ALONE, Budget, Scene, Selection, Selector
from ghostkv.selectors.columns import above, rank, spend

# Selectors that look at the attention of earlier queries, and how a dense prefill is sampled for them: every so many
# queries add to one accumulated observation, the most recent ones are kept each for itself.
OBSERVERS = ("h2o", "snapkv")
OBSERVE_EVERY, OBSERVE_LAST = 16, 32
# Decoded queries beyond those that are also kept each for itself, so that a rejected draft takes its own with it.
UNDO = 32
# Selectors that spend a mean budget over the queries of a call: what one reads depends on which others are fed with it.
POOLED = ("magicpig", "oracle_topp", "token_picker")


@dataclass
class SeatState:
    """What a peer remembers of a sequence: observed attention, and records for those that read ghost records."""

    base: Observations = field(default_factory=Observations)  # what dense queries left
    base_tokens: int = 0  # tokens of the cache after the last of them
    base_start: int = 0  # and before the first of them that came without a decoded one between
    seen: Observations = field(default_factory=Observations)
    decoded: dict[tuple, Decoded] = field(default_factory=dict)
    first: np.ndarray | None = None

    @property
    def rows(self) -> Mapping[tuple[int, int], np.ndarray]:
        """Observed attention by row and KV head, [group, observations, tokens]."""
        return self.seen.rows

    def truncate(self, tokens: int) -> None:
        """Forget what lies beyond: records, and what queries from `tokens` on gave their attention to."""
        if tokens < self.base_tokens:
            # Of the prefill's queries a sample was kept, which is not the sample of a shorter one.
            self.base = Observations(lost=tokens > 0)
            self.base_tokens, self.base_start = tokens, min(self.base_start, tokens)
        # What the prefill left is kept apart, as decoded queries may have been summed into it since.
        self.seen = self.base if tokens == self.base_tokens else self.seen.before(tokens)
        for key, found in self.decoded.items():
            left = max(tokens - int(self.first[key[0]]), 0)
            self.decoded[key] = found[:left]

    def select(self, rows: np.ndarray) -> None:
        """Go on with these rows of the batch."""
        self.base, self.seen = self.base.select(rows), self.seen.select(rows)
        self.first = None if self.first is None else self.first[rows]
        others = {key[1:] for key in self.decoded}
        self.decoded = {
            (b, *other): self.decoded[int(row), *other] for b, row in enumerate(rows) for other in others
        }


@dataclass(frozen=True)
class OwnBudget(Budget):
    """A budget of which each query has its own share alone: in the model a query is decided as if it came by itself."""

    def allowance(self, index_bytes: np.ndarray | float = 0.0) -> np.ndarray:
        """Bytes left for cold keys; NaN for a query whose index and kept keys alone exceed its share."""
        exact = self.visible.visible - self.visible.cold
        fixed = exact * self.pair_bytes + np.broadcast_to(index_bytes, exact.shape)
        slack = np.stack([ratio - fixed / self.full for ratio in self.ratios])
        return np.where(slack < 0, np.nan, slack) * self.full


@dataclass(frozen=True)
class Seated(Decider):
    """A selector of the peers list in a layer of the model."""

    selector: Selector
    fitted: Sequence[Any]  # what `selector.fit` returned for each KV head
    ratio: float  # budget of each KV head: index, kept keys and survivors together over its full fp16 K and V
    name: str = "selector"
    # One a KV head, for selectors that read ghost records
    codecs: Mapping[tuple[str, int], Sequence[Codec]] = field(default_factory=dict)
    space: Space = field(default_factory=Space, repr=False, compare=False)
    column: str = ALONE
    theta: float | None = None  # the model's threshold, in all columns but `alone`

    @property
    def observes(self) -> bool:
        return self.name in OBSERVERS

    @property
    def pools(self) -> bool:
        """Whether what a query reads depends on the other queries of its call."""
        return self.name in POOLED

    @property
    def window(self) -> int:
        """Latest observations that are kept each for itself."""
        return max(OBSERVE_LAST, getattr(self.selector, "observe", 0))

    def start(self) -> SeatState:
        return SeatState()

    def check(self, heads: int, kv_heads: int, head_dim: int, where: str) -> None:
        refuse_misfit(where, (heads, len(self.fitted), head_dim), (heads, kv_heads, head_dim))

    def observe(self, state: SeatState, call: Call) -> None:
        """Add a sample of dense queries: that of the whole prefill, however many calls it takes."""
        call.refuse_unfit()
        tokens, state.seen, state.first = call.keys.shape[2], state.seen.copy(), call.first
        if call.past != state.base_tokens:
            state.base_start = call.past
        for b, h, part, view in views(call):
            first = int(call.first[b])
            # Places in the row: left padding must not move the sample.
            place, latest = view.positions, tokens - first - self.window
            few = np.flatnonzero((place % OBSERVE_EVERY == 0) | (place >= latest))
            earlier = state.seen.places.get((b, h), np.zeros(0, np.int64))
            # The latest queries of the call before may have become ordinary ones.
            late = (earlier >= state.base_start) & (earlier - first < latest)
            keep = ~late | ((earlier - first) % OBSERVE_EVERY == 0)
            if not keep.all():
                state.seen.thinned(b, h, keep)
            fewer = replace(view, queries=view.queries[:, few], visible=view.visible.at(few))
            mass, _ = softmax(fewer.scores(), dtype=np.float32)
            state.seen.add(b, h, mass, call.past + part.start + few, self.window)
        state.base, state.base_tokens = state.seen, tokens

    def attend(self, state: SeatState, call: Call) -> tuple[np.ndarray, np.ndarray]:
        call.refuse_unfit()
        out = np.zeros_like(call.empty())
        counts, state.first = Ledger(call), call.first
        if self.observes:
            self._enough(state)
            state.seen = state.seen.copy()
        for b, h, some, view in views(call):
            scores = view.scores(self.space.of("scores", (call.group, len(view.positions), len(view.keys))))
            scene, budget = self._scene(state, b, h, view, scores, call)
            selection = self._selection(self.fitted[h], scene, budget)
            cold = view.visible.mask(len(view.keys))
            own = (selection.reads & 1).astype(bool) & cold
            read = np.broadcast_to(own, scores.shape)
            result = combine(
                scores, read | ~cold, cold & ~read, view, selection.tail,
                log_weight=selection.log_weight, tail_share=selection.tail_share,
            )  # fmt: skip
            out[b, some, h * call.group : (h + 1) * call.group] = result.output.transpose(1, 0, 2)
            index = selection.index_bytes[0]
            counts.add(b, h, some, view.visible, read, index, index * call.group)
            if self.observes:
                places = call.past + np.arange(some.start, some.stop)
                state.seen.add(b, h, softmax(scores, dtype=np.float32)[0], places, self.window + UNDO)
        call.refuse_unfit(call.keys.shape[2], out)
        return out, counts.rows()

    def _selection(self, fitted: Any, scene: Scene, budget: Budget) -> Selection:
        own = self.selector.select(fitted, scene, budget, self.column)
        if own is not None:
            return own
        ranked = rank(self.selector, fitted, scene)
        if self.column == ALONE:
            return spend(ranked, scene, budget, self.column)
        return above(ranked, scene, self.theta, self.column)

    def _enough(self, state: SeatState) -> None:
        """Refuse to go on where the latest observations cannot be told from older ones."""
        wanted, apart = getattr(self.selector, "observe", 0), 0 if state.seen.lost else state.seen.apart
        if state.seen.lost or apart < wanted:
            raise ModelError(
                f"{self.name}: of the latest queries {wanted or 'all'} must be observed each for itself, and {apart} were; "
                f"older ones are one sum. Accepted: a prompt that is read under this policy, and a cache that is cut back by "
                f"at most {UNDO} tokens, to the end of the prompt, or altogether.\n"
                "  Write: set_policy(model, policy), then read the prompt again"
            )

    def _scene(
        self, state: SeatState, b: int, h: int, view: CallView, scores: np.ndarray, call: Call
    ) -> tuple[Scene, Budget]:
        shape, queries = scores.shape, len(view.positions)
        earlier, seen = np.zeros((call.group, 0, shape[2]), np.float32), 0
        if self.observes:
            before = state.rows.get((b, h), earlier)
            seen = before.shape[1]
            earlier = joined(before, softmax(scores, dtype=np.float32)[0])
        known = self.space.of("known", shape)
        known[...] = scores
        np.copyto(known, -np.inf, where=view.visible.mask(shape[2]))
        scene = Scene(
            view.keys, view.queries, view.scale, view.softcap, view.visible, known, earlier,
            np.arange(queries) + seen, self.space.of("scratch", shape), self.space.of("spare", shape),
            self.space.of("reads", shape[1:], np.uint8), call.layer, h * call.group, self._records(state, b, h, view.keys),
            scores if self.selector.kind == "oracle" else None,
        )  # fmt: skip
        budget = Budget if self.pools else OwnBudget
        return scene, budget((self.ratio,), view.visible, int(call.pair))

    def _records(self, state: SeatState, b: int, h: int, keys: np.ndarray) -> Callable[[str, int], tuple]:
        def of(name: str, size: int) -> tuple[Codec, Decoded]:
            codec, key = self.codecs[name, size][h], (b, h, name, size)
            found = state.decoded.get(key)
            begin = 0 if found is None else len(found.radius)
            if begin < len(keys):
                new = codec.decode(codec.encode(keys[begin:], begin))
                if found is not None:
                    new = Decoded(
                        np.concatenate([found.coordinates, new.coordinates]),
                        np.concatenate([found.radius, new.radius]),
                        max(found.longest, new.longest),
                    )
                state.decoded[key] = found = new
            return codec, found[: len(keys)]

        return of


@dataclass(frozen=True)
class OracleMass(Decider):
    """Drop the most cold keys whose exact mass adds up to at most delta; a ceiling that no index reaches."""

    delta: float
    name: str = field(default="oracle_mass", init=False)

    def start(self) -> SeatState:
        return SeatState()

    def attend(self, state: SeatState, call: Call) -> tuple[np.ndarray, np.ndarray]:
        call.refuse_unfit()
        out, counts = np.zeros_like(call.empty()), Ledger(call)
        for b, h, some, view in views(call):
            scores, cold = view.scores(), view.visible.mask(len(view.keys))
            mass = np.where(cold, softmax(scores, dtype=np.float32)[0].astype(np.float64), np.inf)
            order = np.argsort(mass, axis=-1)
            dropped = np.cumsum(np.take_along_axis(mass, order, axis=-1), axis=-1) <= self.delta
            own = np.empty_like(dropped)
            np.put_along_axis(own, order, ~dropped, axis=-1)
            own &= cold
            read = np.broadcast_to(own.any(axis=0), own.shape) if call.shared else own
            result = combine(scores, read | ~cold, cold & ~read, view)
            out[b, some, h * call.group : (h + 1) * call.group] = result.output.transpose(1, 0, 2)
            counts.add(b, h, some, view.visible, own, 0.0, 0.0)
        call.refuse_unfit(call.keys.shape[2], out)
        return out, counts.rows()
