"""Who decides what a layer reads while a model decodes: one interface for ghost records and every peer.

A decider belongs to one layer. It keeps a state for each sequence that is decoded (its index of the keys, which
grows as tokens are appended), and turns queries, cache and state into attention output and counts of bytes. Arrays
are NumPy; nothing here knows of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ghostkv.codecs import Codec
from ghostkv.codecs.base import ELEMENT_BYTES
from ghostkv.files.errors import ConfigError
from ghostkv.runtime.finite import refuse_unfit
from ghostkv.runtime.fused_attention import (
    COLD,
    HEADS,
    UNITED,
    VISIBLE,
    Cache,
    EstimateFrames,
    GhostRecords,
    GhostRule,
    ghost_attend,
)
from ghostkv.runtime.fused_records import RecordFrames, write_records
from ghostkv.runtime.traffic import rows_of

_FIRST_CAPACITY = 256


@dataclass(frozen=True)
class Call:
    """One call of a layer's attention."""

    query: np.ndarray  # float32 [batch, heads, queries, head_dim]
    # float32 [batch, kv_heads, tokens, dim]; the cache, the queries' own tokens last
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
            keys=np.ascontiguousarray(self.keys[:, :, :end]),
            values=np.ascontiguousarray(self.values[:, :, :end]),
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

    def __deepcopy__(self, memo: dict) -> Decider:
        """Nothing in it ever changes; a copied cache or model has the same."""
        return self

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

    def attend(self, state: Any, call: Call) -> tuple[np.ndarray, np.ndarray]:
        """Output [batch, queries, heads, value_dim], and rows of `traffic.COLUMNS`, one a query.

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


@dataclass(frozen=True)
class GhostFrames:
    """The codecs of a layer's KV heads, side by side; coordinates are padded to the most of any head."""

    writing: RecordFrames
    reading: EstimateFrames
    record_bytes: int

    @classmethod
    def of(cls, codecs: Sequence[Codec]) -> GhostFrames:
        """From one fitted affine codec per KV head, all of the same size."""
        width, most = len(codecs[0].mean_), max(len(codec.encoder_) for codec in codecs)

        def padded(arrays: Sequence[np.ndarray], shape: tuple[int, ...], fill: float = 0.0) -> np.ndarray:
            out = np.full((len(arrays), *shape), fill)
            for row, array in zip(out, arrays, strict=True):
                row[: len(array)] = array
            return out

        quantisers = [codec.quantiser_ for codec in codecs]
        writing = RecordFrames(
            mean=np.stack([codec.mean_ for codec in codecs]).astype(np.float64),
            encoder=padded([codec.encoder_ for codec in codecs], (most, width)),
            # Rows are coordinates here too, so that both loops run along memory.
            decoder=padded([codec.decoder_.T for codec in codecs], (most, width)),
            metric=np.ascontiguousarray(np.stack([codec.metric_ for codec in codecs]).astype(np.float64)),
            centre=padded([one.centre for one in quantisers], (most,)),
            step=padded([one.step for one in quantisers], (most,), 1.0),
            top=padded([((1 << one.bits) - 1).astype(np.float64) for one in quantisers], (most,)),
            rho_step=np.array([codec.rho_step_ for codec in codecs]),
            dims=np.array([len(codec.encoder_) for codec in codecs], np.int64),
        )
        reading = EstimateFrames(
            offset=writing.mean.astype(np.float32),
            decoder=writing.decoder.astype(np.float32),
            dims=writing.dims,
        )
        return cls(writing=writing, reading=reading, record_bytes=int(codecs[0].record_bytes))

    def part(self, kv_heads: Sequence[int]) -> GhostFrames:
        """Those of some KV heads."""
        some = list(kv_heads)
        writing, reading = (
            type(one)(*(array[some] for array in one)) for one in (self.writing, self.reading)
        )
        return GhostFrames(writing, reading, self.record_bytes)


@dataclass
class GhostState:
    """Ghost records of one layer and the sequences of one batch, decoded; they grow as tokens are appended."""

    tokens: int = 0
    coordinates: np.ndarray | None = None
    unbound: np.ndarray | None = None
    total: np.ndarray | None = None
    span: np.ndarray | None = None

    def truncate(self, tokens: int) -> None:
        """Forget records from `tokens` on."""
        self.tokens = min(self.tokens, tokens)
        if self.span is not None and (self.span[..., 1] > tokens).any():
            self.span[...] = 0
            self.total[...] = 0.0

    def select(self, rows: np.ndarray) -> None:
        """Go on with these rows of the batch."""
        if self.coordinates is not None:
            self.coordinates, self.unbound = self.coordinates[rows], self.unbound[rows]
            self.total, self.span = self.total[rows], self.span[rows]

    def room(self, batch: int, kv_heads: int, dims: int, tokens: int, value_dim: int) -> None:
        """Make room for `tokens` records, doubling, and keep those that exist."""
        if self.coordinates is None or self.coordinates.shape[0] != batch:
            self.tokens = 0
            self.coordinates = np.empty((batch, kv_heads, dims, 0), np.float32)
            self.unbound = np.empty((batch, kv_heads, 0), np.uint8)
            self.total = np.zeros((batch, kv_heads, value_dim))
            self.span = np.zeros((batch, kv_heads, 2), np.int64)
        capacity = self.coordinates.shape[3]
        if tokens <= capacity:
            return
        wider = max(tokens + tokens // 4, 2 * capacity, _FIRST_CAPACITY)
        coordinates = np.empty((batch, kv_heads, dims, wider), np.float32)
        unbound = np.empty((batch, kv_heads, wider), np.uint8)
        coordinates[..., : self.tokens] = self.coordinates[..., : self.tokens]
        unbound[..., : self.tokens] = self.unbound[..., : self.tokens]
        self.coordinates, self.unbound = coordinates, unbound


@dataclass(frozen=True)
class GhostDecider(Decider):
    """Read the keys whose ghost record estimates a log mass of theta or more."""

    frames: GhostFrames
    theta: np.ndarray  # float32 [heads]; -inf eliminates nothing
    compensate: bool = True  # give the eliminated keys' estimated mass to the running mean of V
    per_key: bool = False  # theta counts from the uniform share, 1 over the number of visible keys
    name: str = field(default="ghost", init=False)

    def start(self) -> GhostState:
        return GhostState()

    def check(self, heads: int, kv_heads: int, head_dim: int, where: str) -> None:
        refuse_misfit(where, (len(self.theta), *self.frames.writing.mean.shape), (heads, kv_heads, head_dim))

    @property
    def kv_heads(self) -> int:
        return len(self.frames.writing.mean)

    def part(self, kv_heads: Sequence[int]) -> GhostDecider:
        by_group = self.theta.reshape(self.kv_heads, -1)
        return replace(self, frames=self.frames.part(kv_heads), theta=by_group[list(kv_heads)].ravel())

    def attend(self, state: GhostState, call: Call) -> tuple[np.ndarray, np.ndarray]:
        batch, kv_heads, _, head_dim = call.keys.shape
        # The kernels take shapes from the frames and look at no other.
        self.check(call.query.shape[1], kv_heads, head_dim, self.name)
        frames, out, written = self.frames, call.empty(), state.tokens
        self._append(state, call)
        counts = np.zeros((batch, kv_heads, call.query.shape[2], HEADS + call.group), np.int32)
        ghost_attend(
            call.query,
            Cache(keys=call.keys, values=call.values, first=call.first, past=call.past),
            frames.reading,
            GhostRecords(
                coordinates=state.coordinates, unbound=state.unbound, total=state.total, span=state.span
            ),
            GhostRule(
                theta=self.theta, per_key=self.per_key, shared=call.shared, compensate=self.compensate,
                sinks=call.sinks, hot=call.hot, scale=call.scale, softcap=call.softcap,
            ),
            out,
            counts,
        )  # fmt: skip
        call.refuse_unfit(written, out)
        cold = counts[..., COLD]
        records = cold * float(frames.record_bytes)
        rows = rows_of(
            counts[..., VISIBLE], cold, counts[..., UNITED], counts[..., HEADS:], call.pair, records,
            records * call.group,
        )  # fmt: skip
        return out, rows

    def _append(self, state: GhostState, call: Call) -> None:
        """Write the records of all tokens that have none yet."""
        batch, kv_heads, tokens, _ = call.keys.shape
        frames = self.frames
        state.room(batch, kv_heads, frames.writing.encoder.shape[1], tokens, call.values.shape[3])
        if state.tokens < tokens:
            write_records(call.keys, state.tokens, frames.writing, state.coordinates, state.unbound)
            state.tokens = tokens
