"""Lifecycles against a plain reference, the ceiling against exhaustive search, and what must always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.elimination.attention import cold_range
from ghostkv.stages.decode.lifecycle import (
    ARCHIVE,
    GHOST,
    HOT,
    MAX_TOKENS,
    NONE,
    POLICIES,
    WARM,
    Capacity,
    StepReads,
    ceiling,
    live,
)


def make_reads(seed, steps=12, first=9, sinks=2, hot=3, window=0, share=0.3):
    rng = np.random.default_rng(seed)
    positions = np.arange(first, first + steps)
    oldest = np.maximum(positions - window + 1, 0) if window else np.zeros_like(positions)
    visible = cold_range(positions, oldest, sinks, hot)
    chosen = [
        low + np.flatnonzero(rng.random(max(high - low, 0)) < share)
        for low, high in zip(visible.start, visible.stop, strict=True)
    ]
    ends = np.cumsum([len(one) for one in chosen])
    # Multiples of 1/64 add up without rounding, so that ranks of the reference are the same to the last bit.
    weight = rng.integers(0, 64, ends[-1]) / 64.0
    return StepReads(np.concatenate(chosen), ends, weight, rng.integers(0, 64, steps) / 64.0, visible)


def reference(reads, policy, capacity, decay):
    """The same life with dictionaries and sorts."""
    seen = reads.visible
    low, high = seen.start[0], seen.stop[0]
    state = dict.fromkeys(range(seen.first[0], seen.last[0]), HOT)
    for age, j in enumerate(range(high - 1, low - 1, -1)):
        state[j] = WARM if age < capacity.warm else GHOST if age < capacity.warm + capacity.ghost else ARCHIVE
    stamp, received, revived, history, origin, again = {}, {}, {}, [], [], []

    def rank(j, now):
        value = {
            "age": 0,
            "lru": stamp.get(j, 0),
            "attention": int(received.get(j, 0.0) * decay ** (now - stamp.get(j, 0)) * 2.0**26),
        }[policy]
        return value, j

    for t, end in enumerate(reads.ends):
        now, begin = t + 1, reads.ends[t - 1] if t else 0
        history.append(dict(state))
        again.append(0)
        chosen = reads.keys[begin:end].tolist()
        for j, weight in zip(chosen, reads.weight[begin:end], strict=True):
            origin.append(state[j])
            if state[j] != WARM:
                again[-1] += j in revived and now - revived[j] <= capacity.window
                revived[j] = now
            received[j] = received.get(j, 0.0) * decay ** (now - stamp.get(j, 0)) + weight
            stamp[j] = now
        if t + 1 == len(reads.ends):
            break
        leaving = [j for j in range(seen.stop[t], seen.stop[t + 1]) if j >= seen.first[t + 1]]
        for j in leaving:
            stamp[j], received[j] = now, reads.leaving[t]
        rivals = {j for j, where in state.items() if where == WARM} | set(leaving)
        rivals |= set(chosen) if policy != "age" else set()
        best = sorted(rivals, key=lambda j: rank(j, now), reverse=True)
        for number, j in enumerate(best):
            state[j] = WARM if number < capacity.warm else GHOST
        ghosts = sorted((j for j, where in state.items() if where == GHOST), key=lambda j: rank(j, now))
        if len(ghosts) > capacity.ghost:
            for j in ghosts[: len(ghosts) - max(capacity.ghost - capacity.batch, 0)]:
                state[j] = ARCHIVE
        state = {j: where for j, where in state.items() if j >= seen.first[t + 1]}
        state |= {j: HOT for j in range(seen.last[t], seen.last[t + 1])}
    return history, origin, again


CAPACITIES = st.builds(
    Capacity,
    warm=st.integers(0, 5),
    ghost=st.integers(0, 6),
    batch=st.integers(0, 3),
    window=st.integers(1, 6),
)
CASES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "steps": st.integers(1, 16),
        "first": st.integers(0, 20),
        "sinks": st.integers(0, 4),
        "hot": st.integers(1, 5),
        "window": st.sampled_from([0, 0, 3, 8]),
        "share": st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    }
)


@settings(max_examples=80, deadline=None)
@given(CASES, CAPACITIES, st.sampled_from(POLICIES), st.sampled_from([1.0, 0.5]))
def test_a_life_is_that_of_the_reference(case, capacity, policy, decay):
    reads = make_reads(**case)
    life = live(reads, policy, capacity, decay)
    history, origin, again = reference(reads, policy, capacity, decay)
    assert life.origin.tolist() == origin
    assert life.again.tolist() == again
    for t, states in enumerate(history):
        counted = np.bincount(list(states.values()), minlength=5)
        assert life.held[t, 1:].tolist() == counted[1:].tolist()
    assert {j: int(s) for j, s in enumerate(life.state) if s != NONE} == history[-1]


@settings(max_examples=50, deadline=None)
@given(CASES, CAPACITIES, st.sampled_from(POLICIES))
def test_tokens_and_capacities_are_kept(case, capacity, policy):
    reads = make_reads(**case)
    life = live(reads, policy, capacity, 0.9)
    seen = reads.visible
    assert (life.held[:, 1:].sum(axis=1) == seen.visible).all()  # each visible token is in exactly one state
    assert (life.held[:, WARM] <= capacity.warm).all()
    assert (life.held[:, GHOST] <= capacity.ghost).all()
    assert (life.held[:, WARM:].sum(axis=1) == seen.cold).all() or case["window"]
    change = life.flows.sum(axis=1) - life.flows.sum(axis=2)  # what came less what went
    assert (np.diff(life.held, axis=0)[:, 1:] == change[:-1, 1:]).all()
    assert (life.flows[-1] == 0).all()
    assert (life.read_from(reads.ends).sum(axis=1) == np.diff(reads.ends, prepend=0)).all()
    assert (life.flows[:, :, HOT].sum(axis=1) == life.flows[:, NONE, HOT]).all()  # nothing becomes hot again
    if policy == "age":
        assert life.flows[:, (GHOST, ARCHIVE), WARM].sum() == 0


@settings(max_examples=30, deadline=None)
@given(CASES, CAPACITIES, st.sampled_from(POLICIES), st.integers(1, 15))
def test_the_future_changes_nothing_of_the_past(case, capacity, policy, cut):
    reads = make_reads(**case)
    cut = min(cut, len(reads.ends))
    end = reads.ends[cut - 1]
    seen = type(reads.visible)(
        *(
            part[:cut]
            for part in (reads.visible.first, reads.visible.last, reads.visible.start, reads.visible.stop)
        )
    )
    past = StepReads(reads.keys[:end], reads.ends[:cut], reads.weight[:end], reads.leaving[:cut], seen)
    whole, part = live(reads, policy, capacity, 1.0), live(past, policy, capacity, 1.0)
    assert (whole.held[:cut] == part.held).all()
    assert (whole.origin[:end] == part.origin).all()


def best_hits(reads, slots, kept):
    """Exhaustive: the most hits over all choices of at most `slots` kept tokens after every step."""
    best = {frozenset(np.flatnonzero(kept).tolist()): 0}
    for t, end in enumerate(reads.ends):
        chosen = frozenset(reads.keys[reads.ends[t - 1] if t else 0 : end].tolist())
        leaving = range(reads.visible.stop[t], reads.visible.stop[t + 1]) if t + 1 < len(reads.ends) else ()
        following = {}
        for held, hits in best.items():
            hits += len(held & chosen)
            for subset in subsets(sorted(held | chosen | set(leaving)), slots):
                following[subset] = max(following.get(subset, 0), hits)
        best = following
    return max(best.values())


def subsets(items, most):
    return [
        frozenset(item for number, item in enumerate(items) if bits >> number & 1)
        for bits in range(1 << len(items))
        if bits.bit_count() <= most
    ]


@pytest.mark.parametrize("seed", range(15))
def test_the_ceiling_is_the_exhaustive_optimum(seed):
    reads = make_reads(seed, steps=6, first=5, sinks=0, hot=2, share=0.5)
    slots = 1 + seed % 3
    kept = np.zeros(reads.tokens, bool)
    kept[1 : 1 + slots] = True
    assert ceiling(reads, slots, kept).sum() == best_hits(reads, slots, kept)


@settings(max_examples=30, deadline=None)
@given(CASES, CAPACITIES)
def test_no_policy_beats_the_ceiling(case, capacity):
    reads = make_reads(**case)
    for policy in POLICIES:
        life = live(reads, policy, capacity, 1.0)
        start = live(
            StepReads(
                reads.keys[:0],
                reads.ends[:1] * 0,
                reads.weight[:0],
                reads.leaving[:1],
                type(reads.visible)(
                    *(
                        part[:1]
                        for part in (
                            reads.visible.first,
                            reads.visible.last,
                            reads.visible.start,
                            reads.visible.stop,
                        )
                    )
                ),
            ),
            policy,
            capacity,
            1.0,
        ).state
        kept = np.zeros(reads.tokens, bool)
        kept[: len(start)] = start == WARM
        assert (life.origin == WARM).sum() <= ceiling(reads, capacity.warm, kept).sum()


def test_too_many_tokens_are_refused():
    reads = make_reads(0, steps=2, first=MAX_TOKENS)
    with pytest.raises(ValueError, match="ranks at most"):
        live(reads, "lru", Capacity(1, 1, 1, 1), 1.0)
