"""The chapter on calibration: promises named as such, misses as misses, headline figures from the table."""

import pytest

from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.results import Results
from ghostkv.report.sections.calibrated.section import CHAPTER
from tests.report.fixtures import headline, make_params, make_tables


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results(make_tables(tmp_path_factory.mktemp("calibrated")), make_params())


def blocks(results, kind):
    return [block for block in CHAPTER.build(results) if isinstance(block, kind)]


def test_every_aspect_has_a_figure_or_a_table(results):
    names = {block.name for block in [*blocks(results, Figure), *blocks(results, Table)]}
    assert names == {
        "calibrated_goals", "calibrated_dependence", "calibrated_compensation", "calibrated_cross_domain",
        "calibrated_bands", "calibrated_decisions", "calibrated_learned", "calibrated_validity", "calibrated_surely",
        "calibrated_alike", "calibrated_alarms",
    }  # fmt: skip
    for block in [*blocks(results, Figure), *blocks(results, Table)]:
        assert block.data.height > 0, block.name


def test_the_words_say_what_can_be_promised_and_what_cannot(results):
    text = "\n".join(block.text for block in blocks(results, Prose))
    assert "**FER ≤ 1 %, 1.25 bits a coordinate (10 bytes):**" in text
    assert "1/(n+1) = 1.0 %" in text
    assert "no promise" in text


def test_headline_figures_are_means_over_all_heads(results):
    found = headline(results, [CHAPTER])
    summary = results.table("calibrated.summary")
    for name in ("fer_1pct.elimination", "fer_1pct.bytes_ratio", "fer_1pct.achieved"):
        figure = found[f"calibrated.{name}"]
        assert figure["n"] == 8
        rows = summary.filter(
            codec="transform_code", code_bytes=10, rule="relative_topk", decision="head", domain="all",
            target_metric="fer",
        ).sort("target")  # fmt: skip
        assert figure["value"] == pytest.approx(rows[name.split(".")[1]][0])
    assert found["calibrated.output_error_5pct.elimination"]["n"] == 8


def test_the_excess_is_that_of_the_worst_goal_on_whole_texts(results):
    found = headline(results, [CHAPTER])
    # 8 % of calibrations above where 10 % may be; 24 % of conformal ones, whose risk is (.6 + .24) of 5 % at most.
    assert found["calibrated.validity_excess"]["value"] == pytest.approx(-0.02)
    assert found["calibrated.validity_excess"]["n"] == 256
    assert found["calibrated.validity_mean_excess"]["value"] == pytest.approx(0.01 * (0.84 - 1), rel=1e-5)


def test_a_monitor_is_quiet_at_home_and_raises_its_alarm_elsewhere(results):
    (figure,) = [block for block in blocks(results, Figure) if block.name == "calibrated_alarms"]
    for row in figure.data.iter_rows(named=True):
        assert row["alarms"] == (row["calibrated_on"] != row["tested_on"])
        assert (row["first_alarm"] is None) == (row["calibrated_on"] == row["tested_on"])


def test_without_values_there_is_no_compensation_and_no_output_figure(tmp_path):
    results = Results(make_tables(tmp_path, imported=True), make_params())
    assert "calibrated_compensation" not in {block.name for block in blocks(results, Figure)}
    figure = headline(results, [CHAPTER])["calibrated.output_error_5pct.elimination"]
    assert figure["value"] is None
    assert figure["n"] == 0
