"""A hot buffer of every size at once against one that is lived through row by row, and what must always hold."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from ghostkv.files.tables import table_of
from ghostkv.stages.decode.buffer import SURVIVORS, TOP_K, buffer_rows, depths, top_requests
from ghostkv.stages.decode.lifecycle import WARM, Capacity, live
from ghostkv.stages.decode.schemas import BUFFER_SCHEMA
from tests.stages.decode.test_lifecycle import CASES, make_reads
from tests.stages.decode.test_stage import decided, make_trace, plain_best

SIZES = (1, 2, 3, 5, 8, 13, 40)


def lived_through(reads, rows):
    """Rows fetched at each step, and those that nothing had touched, by one buffer that evicts a row at a time."""
    seen, buffer, touched = reads.visible, OrderedDict(), set()
    misses, unseen = [], []

    def use(token):
        touched.add(token)
        buffer.pop(token, None)
        buffer[token] = True

    for token in range(seen.start[0], seen.stop[0]):
        buffer[token] = True
    while len(buffer) > rows:
        buffer.popitem(last=False)
    for t, end in enumerate(reads.ends):
        asked = reads.keys[reads.ends[t - 1] if t else 0 : end].tolist()
        missed = [token for token in asked if token not in buffer]
        misses.append(len(missed))
        unseen.append(len([token for token in missed if token not in touched]))
        for token in asked:
            use(token)
        if t + 1 < len(reads.ends):
            for token in range(max(seen.stop[t], seen.first[t + 1]), seen.stop[t + 1]):
                use(token)
        while len(buffer) > rows:
            buffer.popitem(last=False)
    return np.array(misses), np.array(unseen)


def measured(reads, bounded=True):
    return {row["buffer"]: row for row in buffer_rows({}, reads, None, SIZES, bounded)}


@settings(max_examples=80, deadline=None)
@given(CASES)
def test_one_pass_says_what_a_buffer_of_each_size_would_fetch(case):
    reads = make_reads(**case)
    found = measured(reads)
    for rows in SIZES:
        misses, unseen = lived_through(reads, rows)
        row = found[rows]
        assert row["misses"] == pytest.approx(misses.mean())
        assert row["misses_p99"] == pytest.approx(np.quantile(misses, 0.99))
        assert row["misses_max"] == misses.max()
        assert row["first_reads"] == pytest.approx(unseen.mean())


@settings(max_examples=40, deadline=None)
@given(CASES)
def test_a_larger_buffer_misses_no_more_and_none_less_than_the_best_choice(case):
    found = list(measured(make_reads(**case)).values())
    for less, more in zip(found, found[1:], strict=False):
        assert more["misses"] <= less["misses"]
        assert more["misses_max"] <= less["misses_max"]
    for row in found:
        assert 0 <= row["least_misses"] <= row["misses"] <= row["rows"]
        assert row["first_reads"] <= row["misses"]
    assert found[-1]["misses"] == 0


@settings(max_examples=40, deadline=None)
@given(CASES)
def test_the_policy_lru_of_the_lifecycle_misses_the_same(case):
    reads = make_reads(**case | {"window": 0})
    for rows, row in measured(reads, bounded=False).items():
        life = live(reads, "lru", Capacity(rows, 0, 0, 1), 1.0)
        assert round(row["misses"] * row["steps"]) == (life.origin != WARM).sum()


def test_a_row_is_as_deep_as_what_was_asked_for_since():
    reads = make_reads(3, steps=2, first=9, sinks=0, hot=2, share=0)
    # Cold at first: 0 to 7, 7 on top. Token 8 leaves the hot window after the first step.
    reads = replace(reads, keys=np.array([1, 5, 1, 8]), ends=np.array([2, 4]))
    depth, fresh = depths(reads)
    # Then 8, 5, 1 from the top.
    assert depth.tolist() == [6, 2, 2, 0]
    assert fresh.tolist() == [True, True, False, False]


@pytest.mark.parametrize("window", [0, 40])
def test_a_request_is_the_best_keys_by_their_records(window):
    capture, asked = make_trace(0, window), [3, 7, 500]
    found = decided(capture, asked=asked)
    for place, count in enumerate(asked):
        reads = top_requests(found.levels, len(asked) - place, found.reads.visible)
        for step in range(0, len(reads.ends), 7):
            chosen = reads.keys[reads.ends[step - 1] if step else 0 : reads.ends[step]]
            assert chosen.tolist() == plain_best(capture, step, count).tolist()
        (row,) = buffer_rows({"layer": 1}, reads, count, [1, 600], True)
        assert (row["buffer"], row["asked"], row["request"], row["layer"]) == (600, count, TOP_K, 1)
        assert row["rows"] == np.diff(reads.ends, prepend=0).mean()


def test_survivors_have_a_row_for_every_size_and_no_number_that_is_asked_for():
    found = table_of(buffer_rows({"layer": 0}, make_reads(1), None, [4, 2], False), BUFFER_SCHEMA)
    assert found["buffer"].to_pylist() == [2, 4]
    assert found["asked"].null_count == found["least_misses"].null_count == 2
    assert set(found["request"].to_pylist()) == {SURVIVORS}
