"""Headline figures are what anyone gets from the same table with the stated query or by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import ttest_1samp

from ghostkv.elimination.intervals import least_seen
from ghostkv.files.errors import TableError
from ghostkv.files.io import write_table
from ghostkv.report.chapters import CHAPTERS
from ghostkv.report.document import Chapter, HeadlineFigure
from ghostkv.report.headline import HeadlineValue, Sureness, measure
from ghostkv.report.jobs import BEYOND
from ghostkv.report.power import power_table
from ghostkv.report.results import Results
from ghostkv.stages.frontier.summary_schemas import LAYER_HEAD_SCHEMA
from tests.report.fixtures import headline, make_params, make_tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return make_tables(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def figures(tables):
    return headline(Results(tables, make_params()), CHAPTERS)


def _calibrated(tables, metric: str, target: float) -> pl.DataFrame:
    """The headline design's held-out points, recomputed from the points of each text."""
    points = pl.read_parquet(tables["frontier_points"])
    return points.filter(
        pl.col("codec") == "transform_code",
        pl.col("code_bytes") == 8,
        pl.col("rule") == "relative_topk",
        pl.col("method") == "calibrated",
        pl.col("target_metric") == metric,
        pl.col("target").is_between(target * 0.99, target * 1.01),
    )


@pytest.mark.parametrize(
    ("figure", "metric", "column"),
    [
        ("frontier.elimination_at_fer_1pct", "fer", "elimination"),
        ("frontier.fer_at_fer_1pct", "fer", "fer"),
        ("frontier.bytes_ratio_at_fer_1pct", "fer", "bytes_ratio"),
        ("frontier.bytes_ratio_gqa_at_fer_1pct", "fer", "bytes_ratio_gqa"),
        ("frontier.elimination_at_dropped_mass_1pct", "dropped_mass", "elimination"),
    ],
)
def test_a_mean_over_heads_is_the_mean_over_their_texts(tables, figures, figure, metric, column):
    rows = _calibrated(tables, metric, 0.01)
    assert figures[figure]["value"] == pytest.approx(rows[column].cast(pl.Float64).mean(), rel=1e-6)
    assert figures[figure]["n"] == rows.select("layer", "head").n_unique() == 8


def test_a_mean_over_texts_has_student_s_interval_over_them(tables, figures):
    rows = _calibrated(tables, "fer", 0.01)
    each = rows.group_by("text").agg(pl.col("elimination").cast(pl.Float64).mean())["elimination"].to_numpy()
    found = figures["frontier.elimination_at_fer_1pct"]
    theirs = ttest_1samp(each, 0).confidence_interval(0.95)
    assert found["texts"] == len(each) == 2
    assert (found["low"], found["high"]) == pytest.approx((theirs.low, theirs.high))
    assert found["low"] < found["value"] < found["high"]


def test_the_least_of_all_heads_is_no_mean_and_has_no_interval(figures):
    worst = figures["frontier.elimination_at_fer_1pct_worst_head"]
    assert (worst["texts"], worst["low"], worst["by_text"]) == (None, None, None)


def test_power_says_what_the_texts_could_not_have_shown(tables):
    measured = measure(Results(tables, make_params()), CHAPTERS)
    table = power_table(measured)
    rows = _calibrated(tables, "fer", 0.01)
    each = rows.group_by("text").agg(pl.col("elimination").cast(pl.Float64).mean())["elimination"]
    row = table.row(by_predicate=pl.col("figure") == "frontier.elimination_at_fer_1pct", named=True)
    assert row["deviation"] == pytest.approx(each.std())
    assert row["least_seen"] == pytest.approx(least_seen(each.std(), 2))
    assert row["least_seen_of_all"] == pytest.approx(least_seen(each.std(), 2, table.height))
    assert set(table["figure"]) < {figure.name for figure in measured.values()}
    assert "frontier.elimination_at_fer_1pct_worst_head" not in table["figure"]


def test_a_ratio_of_two_methods_is_seen_by_a_factor():
    sure = Sureness(texts=12, low=50.0, high=150.0, log_deviation=0.5)
    value = HeadlineValue("quality.best_rival_kl_ratio", "factor", 90.0, 768, "p", "q", sure)
    (row,) = power_table({value.name: value}).iter_rows(named=True)
    assert row["scale"] == "log"
    assert row["least_seen"] == row["least_seen_of_all"] == pytest.approx(np.exp(least_seen(0.5, 12)))


def test_one_text_has_no_power():
    alone = HeadlineValue(
        "certificates.topk.elimination", "", 0.5, 1, "p", "q", Sureness.of_texts([0.5], "s")
    )
    assert alone.plain() | {"unit": ""} == {
        "value": 0.5, "unit": "", "n": 1, "texts": 1, "low": None, "high": None, "source": "p: q", "by_text": "s",
    }  # fmt: skip
    assert power_table({alone.name: alone}).is_empty()


def test_safe_head_share_counts_heads_that_eliminate_enough_at_little_loss(tables, figures):
    points = pl.read_parquet(tables["frontier_points"]).filter(
        pl.col("codec") == "transform_code",
        pl.col("code_bytes") == 8,
        pl.col("rule") == "relative_topk",
        pl.col("method") == "safe",
    )
    heads = points.group_by("layer", "head").agg(pl.col("elimination", "fer").mean())
    safe = heads.filter(pl.col("fer") <= 0.05, pl.col("elimination") >= 0.30)
    assert figures["frontier.safe_head_share"]["value"] == pytest.approx(safe.height / heads.height)
    assert 0 < safe.height < heads.height, "the dense head has none, the others do"


def test_capture_and_benchmark_figures_are_worst_error_and_medians(figures):
    assert figures["capture.max_relative_error"] | {"source": ""} == {
        "value": 2e-6, "n": 2, "unit": "relative to the output's norm", "source": "", "texts": None, "low": None, "high": None,
        "by_text": None,
    }  # fmt: skip
    assert figures["capture.overhead_ratio"]["value"] == pytest.approx(1.2)
    assert figures["frontier.sweep_speedup"]["value"] == pytest.approx(80.5)
    assert figures["frontier.sweep_identical_share"]["value"] == 1.0
    assert figures["frontier.sweep_cost_growth"]["value"] == pytest.approx(1.0)


def test_every_source_is_a_query_that_gives_the_value_again(figures):
    for name, figure in figures.items():
        path, query = figure["source"].split(": ", 1)
        more = {"include_file_paths": "text"} if "*" in path else {}
        frame = pl.scan_parquet(path, **more)
        again = pl.SQLContext(frames={"self": frame}).execute(query, eager=True)
        assert again["n"][0] == figure["n"], name
        assert again["value"][0] == pytest.approx(figure["value"]), name
        if figure["by_text"]:
            path, query = figure["by_text"].split(": ", 1)
            each = pl.SQLContext(frames={"self": pl.scan_parquet(path)}).execute(query, eager=True)
            assert each["text"].n_unique() == each.height == figure["texts"], name


# What headline.json was asked to have; those beyond the frontier need stages that the tables here lack.
ASKED = {
    "frontier.safe_head_share",
    "frontier.elimination_at_fer_1pct",
    "frontier.bytes_ratio_at_fer_1pct",
    "frontier.bytes_ratio_gqa_at_fer_1pct",
    "capture.max_relative_error",
    "capture.overhead_ratio",
    "frontier.sweep_speedup",
}
ASKED_OF_STAGES = {
    "hierarchy.violations",
    "plan.worst_ratio",
    "hierarchy.heads_reading_under_half_at_8k",
    "bandwidth.bytes_error",
    "bandwidth.time_error_median",
    "decode.steps",
    "store.kill_points_survived",
    "speed.layer_4k",
    "speed.layer_32k",
    "speed.layer_128k",
    "speed.output_error_32k",
    "speed.scan_limit_share",
    "quality.identity.max_logit_difference",
    "quality.mass_1pct.kl",
    "quality.mass_1pct.top1",
    "quality.at_030.kl",
    "quality.best_rival_kl_ratio",
    "quality.at_030.top1",
    "reproduce.predecessor_max_difference",
    "reproduce.skylight_spearman",
    "retrieval.single_needle_at_025.relative_accuracy",
}


def test_every_figure_that_was_asked_for_is_defined_and_drawn_from_a_table_of_its_stage():
    defined = {figure.name: figure for chapter in CHAPTERS for figure in chapter.headline}
    assert defined.keys() >= ASKED | ASKED_OF_STAGES
    for name in ASKED_OF_STAGES:
        assert defined[name].table.partition(".")[0] == name.partition(".")[0]


def test_the_stages_of_figures_that_were_asked_for_are_stages_of_the_report():
    # The plan's is of every report.
    assert {name.partition(".")[0] for name in ASKED_OF_STAGES} <= {"frontier", "plan", *BEYOND}


KEYS = {"value", "unit", "n", "texts", "low", "high", "source", "by_text"}


def test_figures_that_were_asked_for_are_measured(figures):
    assert figures.keys() >= ASKED
    assert all(figure.keys() == KEYS for figure in figures.values())


def test_the_worst_ratio_of_a_plan_is_that_of_the_worse_side(figures):
    # The fixtures plan half of what was measured, once and a half as much, and as much.
    assert (figures["plan.worst_ratio"]["value"], figures["plan.worst_ratio"]["n"]) == (2.0, 3)


def test_a_target_that_no_row_answers_is_null_and_not_missing(tmp_path):
    tables = make_tables(tmp_path)
    points = pl.read_parquet(tables["frontier_layer_head"]).filter(pl.col("target") > 0.02)
    write_table(points, tables["frontier_layer_head"], LAYER_HEAD_SCHEMA)
    figure = headline(Results(tables, make_params()), CHAPTERS)["frontier.elimination_at_fer_1pct"]
    assert (figure["value"], figure["n"]) == (None, 0)


def test_two_figures_of_one_name_are_refused(tables):
    figure = HeadlineFigure("frontier.x", "", "frontier.layer_head", "SELECT 1 AS value, 1 AS n FROM self")
    chapters = [Chapter(name, name, lambda results: [], headline=(figure,)) for name in ("one", "two")]
    with pytest.raises(TableError, match=r"two chapters define the headline figure frontier\.x"):
        headline(Results(tables, make_params()), chapters)


def test_a_table_of_another_version_is_named(tables):
    figure = HeadlineFigure(
        "frontier.x", "", "frontier.layer_head", "SELECT nothing AS value, 1 AS n FROM self"
    )
    with pytest.raises(TableError, match=r"layer_head\.parquet: headline figure frontier\.x"):
        headline(
            Results(tables, make_params()), [Chapter("one", "one", lambda results: [], headline=(figure,))]
        )
