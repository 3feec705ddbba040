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

import numpy as np
from numba import njit

from ghostkv.elimination.attention import ColdRange

NONE, HOT, WARM, GHOST, ARCHIVE = range(5)
STATES = ("none", "hot", "warm", "ghost", "archive")
# By age: the most recent, nothing is re-heated. lru: read most recently. attention: most attention received of what
# was read, with decay (the accumulator of H2O, Zhang et al. 2023).
POLICIES = ("age", "lru", "attention")
# Ranks are integers: what a policy values, then the position, which breaks ties.
_POSITION_BITS, _VALUE_STEPS, _VALUE_MOST = 20, 2.0**26, 2.0**42
MAX_TOKENS = 1 << _POSITION_BITS
_LONG_AGO = -(1 << 30)


@dataclass(frozen=True)
class Capacity:
    """Slots of each tier, in tokens of one KV head.

    Attributes
    ----------
    warm, ghost : int
    batch : int
        When ghosts exceed their slots, the lowest ranks go to disk until so many slots are free.
    window : int
        A resurrection at most this many steps after the token's last one is a re-resurrection.
    """

    warm: int
    ghost: int
    batch: int
    window: int


@dataclass(frozen=True)
class StepReads:
    """Cold keys that each step of one KV head's group reads.

    Attributes
    ----------
    keys : ndarray of int32
        All steps one after the other, ascending within a step.
    ends : ndarray of int64, shape [steps]
        Where each step's keys end.
    weight : ndarray of float32
        Attention that each key received, summed over the group.
    leaving : ndarray of float64, shape [steps]
        Attention received so far by the token that leaves the hot window after the step.
    visible : ColdRange
        Of consecutive steps.
    """

    keys: np.ndarray
    ends: np.ndarray
    weight: np.ndarray
    leaving: np.ndarray
    visible: ColdRange

    @property
    def tokens(self) -> int:
        return int(self.visible.last[-1])


@dataclass(frozen=True)
class Life:
    """What happened to one KV head under one policy.

    Attributes
    ----------
    held : ndarray of int64, shape [steps, 5]
        Tokens in each state when the step reads; column `NONE` is unused.
    flows : ndarray of int64, shape [steps, 5, 5]
        Tokens that moved from one state to another between this step and the next; `NONE` is what is not visible.
    origin : ndarray of uint8
        State in which each of `StepReads.keys` was read.
    again : ndarray of int64, shape [steps]
        Re-resurrections.
    state : ndarray of uint8, shape [tokens]
        At the last step.
    """

    held: np.ndarray
    flows: np.ndarray
    origin: np.ndarray
    again: np.ndarray
    state: np.ndarray

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
    """Move tokens through a decode.

    Parameters
    ----------
    reads : StepReads
    policy : str
        One of `POLICIES`.
    capacity : Capacity
    decay : float
        What is left of received attention after a step; 1 forgets nothing.

    Raises
    ------
    ValueError
        There are more tokens than a rank can tell apart.
    """
    if reads.tokens > MAX_TOKENS:
        raise ValueError(f"{reads.tokens} tokens; a lifecycle ranks at most {MAX_TOKENS}")
    steps = len(reads.ends)
    life = Life(
        np.zeros((steps, 5), np.int64),
        np.zeros((steps, 5, 5), np.int64),
        np.zeros(len(reads.keys), np.uint8),
        np.zeros(steps, np.int64),
        prefilled(reads.visible, capacity),
    )
    seen = reads.visible
    _live(
        (POLICIES.index(policy), decay),
        (capacity.warm, capacity.ghost, capacity.batch, capacity.window),
        (reads.keys, reads.ends, reads.weight, reads.leaving),
        (seen.first, seen.last, seen.start, seen.stop),
        life.held, life.flows, life.origin, life.again, life.state,
    )  # fmt: skip
    return life


def ceiling(reads: StepReads, slots: int, kept: np.ndarray) -> np.ndarray:
    """Most reads that any choice of `slots` kept tokens could have served, each step (Belady 1966, with bypass).

    A token may be kept from the step that reads it, or from when it leaves the hot window. Of what may be kept, that
    whose next read is furthest away is left out: a greedy packing of intervals by their ends, which is optimal.

    Parameters
    ----------
    reads : StepReads
    slots : int
    kept : ndarray of bool, shape [tokens]
        What is kept at the first step.

    Returns
    -------
    ndarray of int64, shape [steps]
    """
    return _ceiling(reads.keys, reads.ends, reads.visible.stop, slots, kept.copy())


@njit(cache=True, nogil=True, error_model="numpy")
def _rank(policy, j, now, stamp, received):
    """What a policy values in a token, as an integer that no two tokens share; larger stays."""
    value = np.int64(0)
    if policy[0] == 1:
        value = stamp[j]
    elif policy[0] == 2:
        value = np.int64(min(received[j] * policy[1][now - stamp[j]] * _VALUE_STEPS, _VALUE_MOST))
    return (value << _POSITION_BITS) | np.int64(j)


@njit(cache=True, nogil=True, error_model="numpy")
def _put(state, held, flow, j, after):
    before = state[j]
    if before != after:
        flow[before, after] += 1
        held[before] -= 1
        held[after] += 1
        state[j] = after


@njit(cache=True, nogil=True, error_model="numpy")
def _live(policy, capacity, read, seen, held, flows, origin, again, state):
    keys, ends, weight, leaving = read
    first, last, start, stop = seen
    stamp, received = np.zeros(state.size, np.int64), np.zeros(state.size)
    revived = np.full(state.size, _LONG_AGO)
    # What is left after so many steps: a power for every rank would cost more than the ranks.
    left = np.array([policy[1] ** steps for steps in range(ends.size + 1)])
    value = (policy[0], left)
    now_held = np.bincount(state, minlength=5).astype(np.int64)
    ranks, begin = np.empty(state.size, np.int64), 0
    for t in range(ends.size):
        held[t, 1:], now, flow = now_held[1:], t + 1, flows[t]
        for i in range(begin, ends[t]):
            j = keys[i]
            origin[i] = state[j]
            if state[j] != WARM:
                again[t] += now - revived[j] <= capacity[3]
                revived[j] = now
            received[j] = received[j] * left[now - stamp[j]] + weight[i]
            stamp[j] = now
        if t + 1 < ends.size:
            for j in range(max(stop[t], first[t + 1]), stop[t + 1]):
                stamp[j], received[j] = now, leaving[t]
            chosen = keys[begin : ends[t]]
            _move(value, capacity, now, t, chosen, seen, state, now_held, flow, stamp, received, ranks)
            for j in range(first[t], first[t + 1]):
                _put(state, now_held, flow, j, NONE)
            for j in range(last[t], last[t + 1]):
                _put(state, now_held, flow, j, HOT)
        begin = ends[t]


@njit(cache=True, nogil=True, error_model="numpy")
def _move(policy, capacity, now, t, chosen, seen, state, held, flow, stamp, received, ranks):
    """Promote and demote for the next step: warm, just read and leaving tokens compete for the warm slots."""
    first, _, start, stop = seen
    count = 0
    for j in range(start[t], stop[t]):
        if state[j] == WARM:
            ranks[count] = _rank(policy, j, now, stamp, received)
            count += 1
    if policy[0] != 0:
        for j in chosen:
            if state[j] != WARM:
                ranks[count] = _rank(policy, j, now, stamp, received)
                count += 1
    for j in range(max(stop[t], first[t + 1]), stop[t + 1]):
        ranks[count] = _rank(policy, j, now, stamp, received)
        count += 1
    drop = max(count - capacity[0], 0)
    least = _at(ranks[:count], drop)
    for i in range(count):
        _put(state, held, flow, ranks[i] & (MAX_TOKENS - 1), WARM if ranks[i] >= least else GHOST)
    if held[GHOST] > capacity[1]:
        drop, count = held[GHOST] - max(capacity[1] - capacity[2], 0), 0
        for j in range(start[t], stop[t + 1]):
            if state[j] == GHOST:
                ranks[count] = _rank(policy, j, now, stamp, received)
                count += 1
        least = _at(ranks[:count], drop)
        for i in range(count):
            if ranks[i] < least:
                _put(state, held, flow, ranks[i] & (MAX_TOKENS - 1), ARCHIVE)


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
