"""Life of a token's K and V in a decode: hot, warm, ghost, archive, and back.

========  =========================================  ======================  =====================================
state     K and V                                    ghost record            read
========  =========================================  ======================  =====================================
hot       fast memory                                none                    at every step: sinks, recent window
warm      fast memory, copies in slow and on disk    fast memory             if its record survives: a *hit*
ghost     slow memory, copy on disk                  fast memory             if its record survives: *resurrected*
archive   disk                                       fast memory             the same, from disk
========  =========================================  ======================  =====================================

Which keys a step reads follows from records and thresholds alone (`ghostkv.stages.decode.steps`); a policy decides where a
key lies when it is read. Copies below are clean, as K and V never change, so eviction moves nothing. A resurrected
token may be re-heated; what the policy ranks lowest makes room. A policy knows the past alone; `ceiling` knows the
future, and is a bound and no policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ghostkv.elimination.attention import ColdRange
from ghostkv.files.compiled import njit

NONE, HOT, WARM, GHOST, ARCHIVE = range(5)
# By age: the most recent, nothing is re-heated. lru: read most recently. attention: most attention received of what
# was read, with decay (the accumulator of H2O, Zhang et al. 2023).
POLICIES = ("age", "lru", "attention")
# Ranks are integers: what a policy values, then the position, which breaks ties.
_POSITION_BITS, _VALUE_STEPS, _VALUE_MOST = 20, 2.0**26, 2.0**42
MAX_TOKENS = 1 << _POSITION_BITS
_LONG_AGO = -(1 << 30)


class Capacity(NamedTuple):
    """Slots of each tier, in tokens of one KV head."""

    warm: int
    ghost: int
    batch: int  # when ghosts exceed their slots, the lowest ranks go to disk until so many slots are free
    window: int  # a resurrection at most this many steps after the token's last one is a re-resurrection


@dataclass(frozen=True)
class StepReads:
    """Cold keys that each step of one KV head's group reads."""

    keys: np.ndarray  # int32: all steps one after the other, ascending within a step
    ends: np.ndarray  # int64 [steps]: where each step's keys end
    weight: np.ndarray  # float32: attention that each key received, summed over the group
    # float64 [steps]: attention received so far by the token that leaves the hot window after the step.
    leaving: np.ndarray
    visible: ColdRange  # of consecutive steps

    @property
    def tokens(self) -> int:
        return int(self.visible.last[-1])


class Life(NamedTuple):
    """What happened to one KV head under one policy."""

    held: np.ndarray  # int64 [steps, 5]: tokens in each state when the step reads; column `NONE` is unused
    # int64 [steps, 5, 5]: tokens that moved from one state to another between this step and the next; `NONE`
    # is what is not visible.
    flows: np.ndarray
    origin: np.ndarray  # uint8: state in which each of `StepReads.keys` was read
    again: np.ndarray  # int64 [steps]: re-resurrections
    state: np.ndarray  # uint8 [tokens]: at the last step

    def read_from(self, ends: np.ndarray) -> np.ndarray:
        """Cold keys read in each state, shape [steps, 5]."""
        step = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        return np.bincount(step * 5 + self.origin, minlength=5 * len(ends)).reshape(-1, 5)


def prefilled(visible: ColdRange, capacity: Capacity) -> np.ndarray:
    """States at the first step, by position alone, as no query has been seen; uint8, shape [tokens]."""
    state = np.zeros(int(visible.last[-1]), np.uint8)
    low, high = int(visible.start[0]), int(visible.stop[0])
    middle = max(high - capacity.warm, low)
    bottom = max(middle - capacity.ghost, low)
    state[visible.first[0] : visible.last[0]] = HOT
    state[middle:high], state[bottom:middle], state[low:bottom] = WARM, GHOST, ARCHIVE
    return state


def live(reads: StepReads, policy: str, capacity: Capacity, decay: float) -> Life:
    """Move tokens through a decode under one of `POLICIES`.

    After a step `decay` is left of received attention; 1 forgets nothing. Raises ValueError where there are more
    tokens than a rank can tell apart.
    """
    if reads.tokens > MAX_TOKENS:
        raise ValueError(f"{reads.tokens} tokens; a lifecycle ranks at most {MAX_TOKENS}")
    steps, seen = len(reads.ends), reads.visible
    life = Life(
        held=np.zeros((steps, 5), np.int64),
        flows=np.zeros((steps, 5, 5), np.int64),
        origin=np.zeros(len(reads.keys), np.uint8),
        again=np.zeros(steps, np.int64),
        state=prefilled(reads.visible, capacity),
    )
    # What is left after so many steps: a power for every rank would cost more than the ranks.
    left = np.array([float(decay) ** age for age in range(steps + 1)])
    _live(
        _Ranking(kind=POLICIES.index(policy), left=left),
        capacity,
        _Steps(
            keys=reads.keys, ends=reads.ends, weight=reads.weight, leaving=reads.leaving,
            first=seen.first, last=seen.last, start=seen.start, stop=seen.stop,
        ),
        life,
    )  # fmt: skip
    return life


def ceiling(reads: StepReads, slots: int, kept: np.ndarray) -> np.ndarray:
    """Most reads that any choice of `slots` kept tokens could have served, each step (Belady 1966, with bypass);
    int64 [steps].

    A token may be kept from the step that reads it, or from when it leaves the hot window. Of what may be kept, that
    whose next read is furthest away is left out: a greedy packing of intervals by their ends, which is optimal. What
    is `kept` at the first step is bool [tokens].
    """
    return _ceiling(reads.keys, reads.ends, reads.visible.stop, slots, kept.copy())


class _Ranking(NamedTuple):
    """A policy: its place in `POLICIES`, and what is left of received attention after so many steps [steps + 1]."""

    kind: int
    left: np.ndarray


class _Steps(NamedTuple):
    """What `StepReads` holds, with its visible keys taken apart."""

    keys: np.ndarray
    ends: np.ndarray
    weight: np.ndarray
    leaving: np.ndarray
    first: np.ndarray
    last: np.ndarray
    start: np.ndarray
    stop: np.ndarray


class _Tokens(NamedTuple):
    """Of every token its state, the step that touched it last, and attention received until then; and of every state
    how many tokens are in it."""

    state: np.ndarray
    stamp: np.ndarray
    received: np.ndarray
    held: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def _rank(ranking, token, now, tokens):
    """What a policy values in a token, as an integer that no two tokens share; larger stays."""
    value = np.int64(0)
    if ranking.kind == 1:
        value = tokens.stamp[token]
    elif ranking.kind == 2:
        left = ranking.left[now - tokens.stamp[token]]
        value = np.int64(min(tokens.received[token] * left * _VALUE_STEPS, _VALUE_MOST))
    return (value << _POSITION_BITS) | np.int64(token)


@njit(cache=True, nogil=True, error_model="numpy")
def _put(tokens, flow, token, after):
    before = tokens.state[token]
    if before != after:
        flow[before, after] += 1
        tokens.held[before] -= 1
        tokens.held[after] += 1
        tokens.state[token] = after


@njit(cache=True, nogil=True, error_model="numpy")
def _live(ranking, capacity, steps, life):
    """Step by step: read, then move for the next one; fills `life` and leaves its `state` as at the last step."""
    state = life.state
    tokens = _Tokens(
        state,
        np.zeros(state.size, np.int64),
        np.zeros(state.size),
        np.bincount(state, minlength=5).astype(np.int64),
    )
    revived, ranks = np.full(state.size, _LONG_AGO), np.empty(state.size, np.int64)
    begin, count = 0, steps.ends.size
    for t in range(count):
        life.held[t, 1:], now, flow = tokens.held[1:], t + 1, life.flows[t]
        for i in range(begin, steps.ends[t]):
            token = steps.keys[i]
            life.origin[i] = state[token]
            if state[token] != WARM:
                life.again[t] += now - revived[token] <= capacity.window
                revived[token] = now
            left = ranking.left[now - tokens.stamp[token]]
            tokens.received[token] = tokens.received[token] * left + steps.weight[i]
            tokens.stamp[token] = now
        if t + 1 < count:
            # What leaves the hot window now was read by every step until here.
            for token in range(max(steps.stop[t], steps.first[t + 1]), steps.stop[t + 1]):
                tokens.stamp[token], tokens.received[token] = now, steps.leaving[t]
            _move(ranking, capacity, steps, t, steps.keys[begin : steps.ends[t]], tokens, flow, ranks)
            for token in range(steps.first[t], steps.first[t + 1]):
                _put(tokens, flow, token, NONE)
            for token in range(steps.last[t], steps.last[t + 1]):
                _put(tokens, flow, token, HOT)
        begin = steps.ends[t]


@njit(cache=True, nogil=True, error_model="numpy")
def _move(ranking, capacity, steps, t, chosen, tokens, flow, ranks):
    """Promote and demote for the next step: warm, just read and leaving tokens compete for the warm slots."""
    state, now, count = tokens.state, t + 1, 0
    for token in range(steps.start[t], steps.stop[t]):
        if state[token] == WARM:
            ranks[count] = _rank(ranking, token, now, tokens)
            count += 1
    if ranking.kind != 0:
        for token in chosen:
            if state[token] != WARM:
                ranks[count] = _rank(ranking, token, now, tokens)
                count += 1
    for token in range(max(steps.stop[t], steps.first[t + 1]), steps.stop[t + 1]):
        ranks[count] = _rank(ranking, token, now, tokens)
        count += 1
    least = _at(ranks[:count], max(count - capacity.warm, 0))
    for i in range(count):
        _put(tokens, flow, ranks[i] & (MAX_TOKENS - 1), WARM if ranks[i] >= least else GHOST)
    # Ghosts beyond their slots go to disk, a batch at a time.
    if tokens.held[GHOST] > capacity.ghost:
        drop, count = tokens.held[GHOST] - max(capacity.ghost - capacity.batch, 0), 0
        for token in range(steps.start[t], steps.stop[t + 1]):
            if state[token] == GHOST:
                ranks[count] = _rank(ranking, token, now, tokens)
                count += 1
        least = _at(ranks[:count], drop)
        for i in range(count):
            if ranks[i] < least:
                _put(tokens, flow, ranks[i] & (MAX_TOKENS - 1), ARCHIVE)


@njit(cache=True, nogil=True, error_model="numpy")
def _at(ranks, drop):
    """The rank below which `drop` of the ranks lie."""
    if drop == 0:
        return np.int64(-1)
    return np.partition(ranks, drop)[drop] if drop < ranks.size else np.int64(1) << 62


@njit(cache=True, nogil=True, error_model="numpy")
def _ceiling(keys, ends, stop, slots, kept):
    steps, never = ends.size, np.int64(1) << 40
    upcoming = np.full(kept.size, never)
    following = np.empty(keys.size, np.int64)
    for i in range(keys.size - 1, -1, -1):
        following[i] = upcoming[keys[i]]
        upcoming[keys[i]] = np.searchsorted(ends, i, side="right")
    hits, ranks, begin = np.zeros(steps, np.int64), np.empty(kept.size, np.int64), 0
    for t in range(steps):
        for i in range(begin, ends[t]):
            hits[t] += kept[keys[i]]
            kept[keys[i]] = True
            upcoming[keys[i]] = following[i]
        begin, count = ends[t], 0
        if t + 1 < steps:
            kept[stop[t] : stop[t + 1]] = True
        for j in range(kept.size):
            kept[j] &= upcoming[j] < never
            if kept[j]:
                ranks[count] = ((never - upcoming[j]) << _POSITION_BITS) | j
                count += 1
        least = _at(ranks[:count], max(count - slots, 0))
        for i in range(count):
            if ranks[i] < least:
                kept[ranks[i] & (MAX_TOKENS - 1)] = False
    return hits
