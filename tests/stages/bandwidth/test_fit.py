"""Fits find parameters that made the times, and say so on configurations that they have not seen."""

import numpy as np
import pytest

from ghostkv.files.errors import TableError
from ghostkv.stages.bandwidth.fit import features, fit, foretell, halves
from ghostkv.stages.bandwidth.schemas import RAMPS
from ghostkv.stages.bandwidth.tiers import Tier


def sizes():
    rows = []
    for count in (30, 100, 300):
        for row in (64, 256, 1024, 8192):
            for depth in (1, 4):
                starts = np.arange(count, dtype=np.int64) * 3 * max(row, 64)
                rows.append(features(starts, row, 64, depth, True)[1])
    return np.array(rows)


@pytest.mark.parametrize("ramp", [0.0, 3.0])
def test_parameters_come_back(ramp):
    true = Tier("t", 5e9, 2e-6, 64, 4.0, 3e-7, 2e-8, ramp)
    table = np.random.default_rng(0).permutation(sizes())
    seconds = foretell(true, table)
    found = fit("t", 64, table[::2], seconds[::2])
    assert found.bandwidth == pytest.approx(5e9, rel=0.1)
    assert np.abs(foretell(found, table[1::2]) / seconds[1::2] - 1).max() < 0.03


def test_one_disturbed_timing_does_not_bend_the_fit():
    table = sizes()
    true = foretell(Tier("t", 5e9, 2e-6, 64, 4.0, 3e-7), table)
    disturbed = true.copy()
    disturbed[5] *= 8
    found = fit("t", 64, table, disturbed)
    assert np.median(np.abs(foretell(found, table) / true - 1)) < 0.05


def test_halves_are_even_stable_and_do_not_depend_on_order():
    names = [f"configuration {number}" for number in range(21)]
    chosen = halves(names, 0)
    assert abs(chosen.sum() - (~chosen).sum()) == 1
    order = np.random.default_rng(1).permutation(21)
    assert (halves([names[index] for index in order], 0) == chosen[order]).all()
    assert (halves(names, 1) != chosen).any()


def test_too_few_or_impossible_timings_are_refused():
    table = sizes()
    with pytest.raises(TableError, match="to fit"):
        fit("t", 64, table[:2], np.ones(2))
    with pytest.raises(TableError, match="not above 0"):
        fit("t", 64, table, np.zeros(len(table)))


def test_features_name_requests_bytes_depth_and_ramps():
    found, row = features(np.array([0, 64, 4096]), 64, 64, 2, True)
    assert row[:3] == [2.0, 192.0, 2.0]
    assert len(row) == 3 + len(RAMPS)
    assert row[3] == 0.0
    assert found.requests == 2
