"""Targets are judged by what was measured."""

from __future__ import annotations

import pytest

from ghostkv.report.results import Results
from ghostkv.report.sections.targets import MISSED, NOT_MEASURED, REACHED, TARGETS, build, judge
from tests.report.fixtures import make_params, make_tables

ELIMINATION = next(target for target in TARGETS if target.figure == "frontier.elimination_at_fer_1pct")
BYTES = next(target for target in TARGETS if target.figure == "frontier.bytes_ratio_at_fer_1pct")


def _figures(**values: float) -> dict:
    return {f"frontier.{name}": {"value": value} for name, value in values.items()}


def test_elimination_counts_only_where_the_measured_fer_keeps_to_its_target():
    assert judge(ELIMINATION, _figures(elimination_at_fer_1pct=0.97, fer_at_fer_1pct=0.009))[1] == REACHED
    assert judge(ELIMINATION, _figures(elimination_at_fer_1pct=0.97, fer_at_fer_1pct=0.011))[1] == MISSED
    assert judge(ELIMINATION, _figures(elimination_at_fer_1pct=0.94, fer_at_fer_1pct=0.009))[1] == MISSED


def test_bytes_must_stay_below_their_bound():
    assert judge(BYTES, _figures(bytes_ratio_at_fer_1pct=0.10, fer_at_fer_1pct=0.009))[1] == REACHED
    assert judge(BYTES, _figures(bytes_ratio_at_fer_1pct=0.11, fer_at_fer_1pct=0.009))[1] == MISSED


def test_what_was_not_measured_is_not_called_missed():
    assert judge(BYTES, {}) == (None, NOT_MEASURED)


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ({"error": 2e-3}, "Worst relative error of recomputed attention"),
        ({"speedup": 12.0}, "Sweep over a loop on 19 thetas"),
        ({"overhead": 1.5}, "Capture over a plain forward pass"),
    ],
)
def test_a_miss_is_in_the_table_and_in_the_words_above_it(tmp_path, broken, what):
    prose, table = build(Results(make_tables(tmp_path, **broken), make_params()))
    verdicts = dict(table.data.select("what", "verdict").iter_rows())
    assert verdicts[what] == MISSED
    assert f"**Missed:** {what[0].lower()}{what[1:]}" in prose.text


def test_the_same_run_without_the_fault_reaches_those_targets(tmp_path):
    _, table = build(Results(make_tables(tmp_path), make_params()))
    verdicts = dict(table.data.select("what", "verdict").iter_rows())
    assert verdicts["Worst relative error of recomputed attention"] == REACHED
    assert verdicts["Sweep over a loop on 19 thetas"] == REACHED
    assert verdicts["Heads with a safe point on held-out text"] == MISSED, "one of eight heads is dense"
