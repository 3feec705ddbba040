"""Tiers and what they move: brute force, bounds, and instruments that know nothing of the counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.stages.bandwidth.probes import PAGE, DiskFile, Memory, random_rows, rows_at, tiled
from ghostkv.stages.bandwidth.tiers import Tier, expected
from ghostkv.store.touched import touched

AMOUNT = st.floats(1e-3, 1e6)
TIERS = st.builds(
    Tier,
    name=st.just("t"),
    bandwidth=st.floats(1e6, 1e13),
    latency=st.floats(1e-9, 1e-3),
    unit=st.sampled_from([64, 4096]),
    depth=st.floats(1, 1e5),
    overhead=st.floats(0, 1e-5),
)


@given(TIERS, AMOUNT, st.integers(1, 1 << 20), st.floats(1, 10))
def test_more_of_the_same_requests_take_no_less_time(tier, requests, size, factor):
    few, many = (tier.seconds(count, count * size) for count in (requests, factor * requests))
    assert many >= few * (1 - 1e-12)


@given(TIERS, st.floats(1, 1e6), st.integers(1, 1 << 20))
def test_no_faster_than_bandwidth_and_latency_no_slower_than_one_by_one(tier, requests, row):
    size = requests * row
    seconds = tier.seconds(requests, size)
    assert seconds >= size / tier.bandwidth * (1 - 1e-12)
    assert seconds >= tier.latency * (1 - 1e-12)
    alone = requests * (tier.overhead + tier.latency + row / tier.bandwidth)
    assert seconds <= alone * (1 + 1e-12)


@given(TIERS, st.floats(1, 1e6), st.integers(1, 1 << 20), st.floats(1, 100))
def test_a_better_tier_is_no_slower(tier, requests, row, factor):
    plain = tier.seconds(requests, requests * row)
    for change in (
        {"bandwidth": tier.bandwidth * factor},
        {"depth": tier.depth * factor},
        {"latency": tier.latency / factor},
    ):
        better = Tier(**{**tier.__dict__, **change})
        assert better.seconds(requests, requests * row) <= plain * (1 + 1e-12)


def test_nothing_takes_no_time_and_one_request_its_latency():
    tier = Tier("t", 1e9, 1e-6, 64, depth=32)
    assert tier.seconds(0, 0) == 0
    assert tier.seconds(1, 1000) == pytest.approx(2e-6)


def brute(starts, row, unit):
    """Every byte of every row, one by one."""
    seen, runs, end = set(), 0, None
    for start in starts:
        units = [byte // unit for byte in range(start, start + row)]
        runs += end is None or units[0] not in (end, end + 1)
        seen.update(units)
        end = units[-1]
    return len(seen), runs


@settings(deadline=None)  # the first example compiles
@given(
    st.lists(st.integers(0, 3000), max_size=30),
    st.integers(1, 200),
    st.sampled_from([1, 7, 64, 512]),
    st.booleans(),
)
def test_units_and_requests_equal_brute_force(starts, row, unit, ascending):
    starts = sorted(starts) if ascending else starts
    found = touched(np.array(starts, np.int64), row, unit)
    assert (found.units, found.requests) == brute(starts, row, unit)
    alone = touched(np.array(starts, np.int64), row, unit, merge=False)
    assert (alone.requests, alone.units) == (len(starts), found.units)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30), st.integers(1, 200), st.floats(0.5, 20))
def test_bytes_are_conserved(starts, row, ramp):
    found = touched(np.array(starts, np.int64), row, 64, ramp)
    wanted = len(set(byte for start in starts for byte in range(start, start + row)))
    assert wanted <= found.size <= len(starts) * (row // 64 + 2) * 64
    assert 0 < found.ramp_units <= found.requests * ramp + 1e-9


@pytest.mark.parametrize("bad", [(-1, 8, 64), (0, 0, 64), (0, 8, 0)])
def test_impossible_rows_are_refused(bad):
    with pytest.raises(ValueError, match="offsets"):
        touched(np.array([bad[0]]), bad[1], bad[2])


@pytest.mark.parametrize(
    ("share", "row", "unit"), [(0.02, 256, 64), (0.1, 256, 4096), (0.5, 4096, 4096), (1.0, 64, 64)]
)
def test_random_rows_touch_what_the_formula_expects(share, row, unit):
    universe = 40_000
    found = touched(rows_at(random_rows(universe, share, 1), row), row, unit)
    requests, size = expected(universe, share, row, unit)
    assert found.size == pytest.approx(float(size), rel=0.05)
    assert found.requests == pytest.approx(float(requests), rel=0.15)


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from([64, 256, 4096]), st.sampled_from([64, 4096]))
def test_expected_bytes_grow_with_survivors_and_end_at_all(low, high, row, unit):
    low, high = sorted((low, high))
    universe = 4096
    small, large, everything = (float(expected(universe, share, row, unit)[1]) for share in (low, high, 1.0))
    assert small <= large * (1 + 1e-9) <= everything * (1 + 2e-9)
    assert everything == pytest.approx(universe * max(row, unit) / max(1, unit // row))
    assert small >= universe * low * row * (1 - 1e-9)


def test_the_mmu_and_a_marking_loop_see_the_counted_units():
    memory = Memory(1 << 22, huge=False)
    for row, share in ((64, 0.02), (200, 0.05), (4096, 0.1)):
        starts = rows_at(random_rows((1 << 22) // row, share, row), row)
        assert memory.lines(starts, row) == touched(starts, row, 64).units
        pages = memory.referenced_pages(starts, row)
        assert pages is None or pages == pytest.approx(touched(starts, row, PAGE).units, rel=0.01, abs=2)
    memory.close()


def test_page_cache_and_kernel_see_the_counted_blocks_and_the_file_goes(tmp_path):
    disk = DiskFile(tmp_path / "file", 1 << 22)
    starts = rows_at(random_rows((1 << 22) // 256, 0.03, 3), 256)
    counted = touched(starts, 256, PAGE).units
    if disk.cold():  # a file system in memory keeps what it has
        assert disk.read_mapped(starts, 256)[1] == counted
        if disk.direct:
            assert disk.read_direct(np.unique(starts // PAGE) * PAGE, PAGE, 2)[1] == counted * PAGE
    disk.close()
    assert not disk.path.exists()


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(8, 40))
def test_tiles_keep_each_pattern_in_its_block(blocks, tokens):
    patterns = [np.array([0, 3, 7]), np.array([1])]
    rows = tiled(patterns, tokens, blocks * tokens, np.array([0, 1]))
    expected_rows = [block * tokens + row for block in range(blocks) for row in patterns[block % 2]]
    assert rows.tolist() == expected_rows
