"""Ghost records in a layer of the model: written as tokens come, asked which keys a query reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from ghostkv.codecs import Codec
from ghostkv.codecs.base import RHO_BYTES
from ghostkv.codecs.turned import Turned
from ghostkv.files.errors import ModelError
from ghostkv.runtime.deciders import Call, Decider, refuse_misfit
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
from ghostkv.runtime.fused_records import RecordFrames, write_packed, write_records
from ghostkv.runtime.lanes import LANES
from ghostkv.runtime.packed_attention import PackedAttention, StepRooms
from ghostkv.runtime.packed_parts import (
    SURVIVORS,
    PackedCache,
    PackedRecords,
    PackedRule,
    Place,
    advance_means,
)
from ghostkv.runtime.packed_records import field_places, in_whole_fields, packed_frames
from ghostkv.runtime.stored import stored
from ghostkv.runtime.team import torch_threads
from ghostkv.runtime.traffic import Rows, rows_of

_FIRST_CAPACITY = 256


@dataclass(frozen=True)
class GhostFrames:
    """The codecs of a layer's KV heads, side by side; coordinates are padded to the most of any head."""

    writing: RecordFrames
    reading: EstimateFrames
    record_bytes: int
    # One a KV head where codes are no levels of single coordinates; such records are written by the codecs themselves.
    codecs: tuple[Codec, ...] = ()

    @classmethod
    def of(cls, codecs: Sequence[Codec]) -> GhostFrames:
        """From one fitted codec per KV head, all of the same size."""
        writing = RecordFrames.of(codecs)
        reading = EstimateFrames(
            offset=writing.mean.astype(np.float32),
            decoder=writing.decoder.astype(np.float32),
            dims=writing.dims,
        )
        whole = tuple(codecs) if isinstance(codecs[0], Turned) else ()
        return cls(writing, reading, int(codecs[0].record_bytes), whole)

    def part(self, kv_heads: Sequence[int]) -> GhostFrames:
        """Those of some KV heads."""
        some = list(kv_heads)
        writing, reading = (
            type(one)(*(array[some] for array in one)) for one in (self.writing, self.reading)
        )
        return GhostFrames(
            writing, reading, self.record_bytes, tuple(self.codecs[h] for h in some) if self.codecs else ()
        )


@dataclass
class GhostState:
    """Ghost records of one layer and the sequences of one batch; they grow as tokens are appended."""

    tokens: int = 0
    # [batch, kv_heads, ...]; what tells keys apart, and whether a record bounds nothing
    records: tuple[np.ndarray, np.ndarray] | None = None
    capacity: int = 0
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
        if self.records is not None:
            self.records = tuple(one[rows] for one in self.records)
            self.total, self.span = self.total[rows], self.span[rows]


@dataclass(frozen=True)
class GhostDecider(Decider):
    """Read the keys whose ghost record estimates a log mass of theta or more; records are kept decoded, in float32."""

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

    def attend(self, state: GhostState, call: Call) -> tuple[np.ndarray, Rows]:
        batch, kv_heads, tokens, head_dim = call.keys.shape
        # The kernels take shapes from the frames and look at no other.
        self.check(call.query.shape[1], kv_heads, head_dim, self.name)
        out, written = call.empty(), state.tokens
        keys, values = stored(call.keys), stored(call.values)
        self.remember(state, call)
        counts = np.zeros((batch, kv_heads, call.query.shape[2], HEADS + call.group), np.int32)
        self._read(state, call, keys, values, out, counts)
        refuse_unfit(call.layer, (call.query, keys, values), out, call.first, call.past, written)
        return out, partial(_rows, counts, call.pair, float(self.frames.record_bytes))

    def remember(self, state: GhostState, call: Call) -> None:
        """Write the records of a call's tokens that have none."""
        batch, _, tokens, _ = call.keys.shape
        self._room(state, batch, tokens, call.values.shape[3])
        if state.tokens < tokens:
            self._write(state, stored(call.keys), tokens, call.first)
            state.tokens = tokens

    def _room(self, state: GhostState, batch: int, tokens: int, value_dim: int) -> None:
        """Make room for `tokens` records, doubling, and keep those that exist."""
        if state.records is None or len(state.records[0]) != batch:
            state.tokens = state.capacity = 0
            state.records = self._empty(batch, 0)
            state.total = np.zeros((batch, self.kv_heads, value_dim))
            state.span = np.zeros((batch, self.kv_heads, 2), np.int64)
        if tokens > state.capacity:
            capacity = max(tokens + tokens // 4, 2 * state.capacity, _FIRST_CAPACITY)
            wider = self._empty(batch, capacity)
            for one, other in zip(wider, state.records, strict=True):
                one[tuple(map(slice, other.shape))] = other
            state.records, state.capacity = wider, capacity

    def _empty(self, batch: int, capacity: int) -> tuple[np.ndarray, np.ndarray]:
        """Room for the records of so many tokens."""
        kv_heads, dims, _ = self.frames.writing.encoder.shape
        coordinates = np.empty((batch, kv_heads, dims, capacity), np.float32)
        return coordinates, np.empty((batch, kv_heads, capacity), np.uint8)

    def continues(self, other: Decider) -> bool:
        """Whether what `other` remembers of a sequence is what this one would: the same records, whatever theta."""
        return type(other) is type(self) and other.frames is self.frames

    def _write(self, state: GhostState, keys: np.ndarray, tokens: int, first: np.ndarray) -> None:
        write_records(keys, state.tokens, tokens, self.frames.writing, *state.records)

    def _read(
        self, state: GhostState, call: Call, keys: np.ndarray, values: np.ndarray, out: np.ndarray, counts: np.ndarray
    ) -> None:  # fmt: skip
        """Fill in output and counts, as `ghost_attend` does."""
        rule = GhostRule(
            theta=self.theta, per_key=self.per_key, shared=call.shared, compensate=self.compensate,
            sinks=call.sinks, hot=call.hot, scale=call.scale, softcap=call.softcap,
        )  # fmt: skip
        records = GhostRecords(*state.records, total=state.total, span=state.span)
        cache = Cache(keys=keys, values=values, first=call.first, past=call.past)
        ghost_attend(call.query, cache, self.frames.reading, records, rule, out, counts)


@dataclass(frozen=True)
class CodedDecider(GhostDecider):
    """The same with records that their codecs write: vector codes, which also ask for a key's position."""

    def _write(self, state: GhostState, keys: np.ndarray, tokens: int, first: np.ndarray) -> None:
        coordinates, unbound = state.records
        for row, padding in enumerate(first.tolist()):
            begin = max(state.tokens, padding)
            for head, codec in enumerate(self.frames.codecs):
                records = codec.encode(keys[row, head, begin:tokens], begin - padding)
                decoded = codec.decode(records)
                coordinates[row, head, : decoded.coordinates.shape[1], begin:tokens] = decoded.coordinates.T
                unbound[row, head, begin:tokens] = ~np.isfinite(decoded.radius)


@dataclass(frozen=True)
class PackedDecider(GhostDecider):
    """The same from records as they are stored, with queries in int8: what decodes at the speed of the bytes it reads.

    Attributes
    ----------
    rooms : StepRooms
        Shared by the layers of a policy, which decide one after the other.
    """

    rooms: StepRooms = field(default_factory=StepRooms, repr=False, compare=False)

    reads_bfloat16 = True

    @cached_property
    def _attention(self) -> PackedAttention:
        return PackedAttention(packed_frames(self.frames.writing), rooms=self.rooms)

    @cached_property
    def _places(self) -> np.ndarray:
        return field_places(self.frames.writing)

    def _empty(self, batch: int, capacity: int) -> tuple[np.ndarray, np.ndarray]:
        blocks, each = -(-capacity // LANES), self.frames.record_bytes - RHO_BYTES
        codes = np.zeros((batch, self.kv_heads, blocks, LANES * each), np.uint8)
        return codes, np.zeros((batch, self.kv_heads, blocks * LANES), np.uint8)

    def _write(self, state: GhostState, keys: np.ndarray, tokens: int, first: np.ndarray) -> None:
        write_packed(keys, state.tokens, tokens, self.frames.writing, self._places, *state.records)

    def _read(
        self, state: GhostState, call: Call, keys: np.ndarray, values: np.ndarray, out: np.ndarray, counts: np.ndarray
    ) -> None:  # fmt: skip
        if values.shape[3] % LANES:
            raise ModelError(
                f"layer {call.layer}: values have {values.shape[3]} numbers, and records in whole fields are read with values of "
                f"a multiple of {LANES}. Accepted: another codec.\n  Write: codec: transform_code"
            )
        codes, rho = state.records
        attention = self._attention
        attention.threads = torch_threads()
        for b, first in enumerate(call.first.tolist()):
            cache = PackedCache(keys[b], values[b])
            records = PackedRecords(codes[b], rho[b], state.total[b])
            for t in range(max(first - call.past, 0), call.query.shape[2]):
                place = Place.of(first, call.past + t + 1, call.sinks, call.hot)
                visible = place.tokens - first
                theta = self.theta - np.log(visible) if self.per_key else self.theta
                rule = PackedRule(theta.astype(np.float64), call.scale, call.softcap, self.compensate)
                advance_means(cache.values, place.start, place.stop, records.total, state.span[b])
                query = np.ascontiguousarray(call.query[b, :, t])
                out[b, t], found = attention.step(query, cache, records, rule, place)
                counts[b, :, t, VISIBLE], counts[b, :, t, COLD] = visible, place.cold
                counts[b, :, t, UNITED:] = found[:, SURVIVORS:]
            out[b, : max(first - call.past, 0)] = 0.0


def _rows(counts: np.ndarray, pair: float, record_bytes: float) -> np.ndarray:
    """Rows of counts [batch, kv_heads, queries, 3 + group], as `ghost_attend` fills them."""
    cold, own = counts[..., COLD], counts[..., HEADS:]
    records = cold * record_bytes
    return rows_of(
        counts[..., VISIBLE], cold, counts[..., UNITED], own, pair, records, records * own.shape[3]
    )


def ghost_decider(
    frames: GhostFrames, theta: np.ndarray, compensate: bool, per_key: bool, shared: bool, rooms: StepRooms
) -> GhostDecider:
    """The decider of a layer: packed where its records lie in whole fields and its heads share survivors."""
    if frames.codecs:
        return CodedDecider(frames, theta, compensate, per_key)
    fits = shared and in_whole_fields(frames.writing) and not frames.writing.mean.shape[1] % LANES
    if fits:
        return PackedDecider(frames, theta, compensate, per_key, rooms=rooms)
    return GhostDecider(frames, theta, compensate, per_key)
