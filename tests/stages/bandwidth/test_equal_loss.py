"""Equal loss before equal time: operating points by hand from a measured curve, and steps at those."""

from dataclasses import replace

import polars as pl
import pytest

from ghostkv.stages.bandwidth.equal_loss import EQUAL_ERROR, Losses, Operation, crossings, goals
from ghostkv.stages.bandwidth.schemes import (
    ADDITIVE,
    FULL,
    INT4,
    INT8,
    OVER_FP8,
    QUEST,
    step,
)
from ghostkv.stages.bandwidth.step_times import CONSTANT, TREND
from tests.stages.bandwidth.test_step_times import FLAT, ONE, PLACED

CURVE = (Operation(0.8, 0.0001, 0.001), Operation(0.2, 0.01, 0.01), Operation(0.05, 0.04, 0.1))
LOSSES = Losses({FULL: 0.0, INT8: 0.01, INT4: 0.2, "fp8": 0.0005}, {"fp16": CURVE, "fp8": CURVE[1:]})


def test_a_point_lies_straight_between_thetas_in_logarithms_and_never_beyond_them():
    found = LOSSES.at("fp16", "output_error", 10**-1.5)
    assert (found.share, found.dropped_mass) == pytest.approx((0.1, 0.02))
    assert LOSSES.at("fp16", "dropped_mass", 0.01).share == pytest.approx(0.2)
    # More than the highest theta loses: what it reads is the least that was measured.
    assert LOSSES.at("fp16", "output_error", 0.5) == CURVE[2]
    assert LOSSES.at("fp16", "output_error", 0.0009) is None
    assert LOSSES.at("int4", "output_error", 0.5) is None


def test_a_mean_that_falls_with_theta_is_no_way_back():
    curve = (Operation(0.8, 0.1, 0.081), Operation(0.4, 0.2, 0.080), Operation(0.1, 0.3, 0.1))
    found = Losses({}, {"fp8": curve}).at("fp8", "output_error", 0.081)
    assert found.share == pytest.approx(0.4)


def test_losses_are_means_over_layers_and_texts():
    row = {"cache": "fp16", "theta": 0.0, "share_group": 0.1, "dropped_mass": 0.02, "output_error": 0.01}
    other = row | {"share_group": 0.3, "dropped_mass": 0.04, "output_error": 0.03}
    whole = {"cache": "int4", "theta": None, "share_group": 1.0, "dropped_mass": 0.0, "output_error": 0.1}
    found = Losses.of(pl.DataFrame([row, other, whole, whole | {"output_error": 0.3}]))
    assert found.whole == pytest.approx({FULL: 0.0, INT4: 0.2})
    point = found.curves["fp16"][0]
    assert (point.share, point.dropped_mass, point.output_error) == pytest.approx((0.2, 0.03, 0.02))


def test_every_comparison_says_what_both_lose():
    rows = {
        (goal, ours, other): (found, theirs) for goal, ours, other, found, theirs in goals(LOSSES, [0.01])
    }
    assert rows[EQUAL_ERROR, ADDITIVE, INT8] == (LOSSES.at("fp16", "output_error", 0.01), 0.01)
    # INT4 loses more than the highest theta.
    assert rows[EQUAL_ERROR, ADDITIVE, INT4] == (CURVE[2], 0.2)
    # fp8 itself loses more of this than INT8, so that nothing on top of it comes so low.
    assert rows[EQUAL_ERROR, OVER_FP8, "fp8"][0] is None
    found, theirs = rows["dropped mass <= 0.01", ADDITIVE, INT4]
    assert (found.share, theirs) == (pytest.approx(0.2), 0.2)
    assert rows["dropped mass <= 0.01", ADDITIVE, FULL][1] == 0.0
    # Pages that hold our survivors lose what we lose.
    assert rows["dropped mass <= 0.01", ADDITIVE, QUEST][1] == pytest.approx(0.01)
    assert (EQUAL_ERROR, ADDITIVE, FULL) not in rows


def crossing(share, world=FLAT, against=FULL, goal="dropped mass <= 0.01", trend=1.0):
    shares = [
        {"scenario": scenario, "context": tokens, "share_group": 0.3 * by}
        for scenario, by in ((CONSTANT, 1.0), (TREND, trend))
        for tokens in (1024, 65536)
    ]
    losses = Losses({FULL: 0.0, INT4: 0.02}, {"fp16": (Operation(share, 0.01, 0.02),)})
    rows = crossings(ONE, PLACED, shares, losses, [0.01], world, 20_100)
    wanted = (ADDITIVE, against, goal, TREND if trend != 1.0 else CONSTANT)
    return next(
        row for row in rows if (row["scheme"], row["against"], row["goal"], row["scenario"]) == wanted
    )


def test_a_crossing_lies_where_bytes_saved_pay_for_the_phase():
    # 256 B a key in full against 9 B of record and half of 256 B: 119 ns a cold key, and 1.19 ms to earn back.
    found = crossing(0.5)
    assert found["context"] / 2 ** (1 / 8) < 10_000 + 100 < found["context"]
    assert not found["always"]
    # At 20,000 cold keys: 5.12 ms in full against 2.74 and the phase, beside 25.6 us of exact keys.
    assert found["speedup"] == pytest.approx((5.12 + 0.0256) / (2.74 + 1.19 + 0.0256))
    # 20 us of weights on both sides.
    assert found["step_speedup"] == pytest.approx((5.12 + 0.0456) / (2.74 + 1.19 + 0.0456))
    assert found["bytes_ratio"] == pytest.approx((2.74 + 0.0256) / (5.12 + 0.0256))
    assert (found["share"], found["output_error"], found["their_output_error"]) == (0.5, 0.02, 0.0)


def test_a_crossing_may_be_everywhere_or_nowhere():
    at_once = crossing(0.5, replace(FLAT, phase=0.0))
    assert (at_once["context"], at_once["always"]) == (1024, True)
    never = crossing(1.0)  # all survive, and their records come on top
    assert (never["context"], never["always"]) == (None, False)
    assert never["speedup"] < 1


def test_a_quantised_cache_is_met_at_its_own_loss():
    found = crossing(0.1, against=INT4, goal=EQUAL_ERROR)
    assert found["output_error"] <= found["their_output_error"] == 0.02
    theirs, ours = (step(scheme, ONE, "dram", "hbm", 20_100, 0.1, FLAT) for scheme in (INT4, ADDITIVE))
    assert found["speedup"] == pytest.approx(theirs["attention_seconds"] / ours["attention_seconds"])


def test_survivors_go_with_the_context_as_the_scenario_says():
    found, ours = crossing(0.2, trend=0.5), step(ADDITIVE, ONE, "dram", "hbm", 20_100, 0.1, FLAT)
    theirs = step(FULL, ONE, "dram", "hbm", 20_100, 0.1, FLAT)
    assert found["speedup"] == pytest.approx(theirs["attention_seconds"] / ours["attention_seconds"])
