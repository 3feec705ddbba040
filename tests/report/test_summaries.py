"""Summaries keep the worst case beside the mean."""

from __future__ import annotations

import polars as pl
import pytest

from ghostkv.files.io import write_table
from ghostkv.report.document import Prose
from ghostkv.report.results import Results
from ghostkv.report.schemas import SCHEMAS
from ghostkv.report.sections import answer
from ghostkv.report.summaries import Promise, head_name, operating_point, pooled_curve, spread
from tests.report.fixtures import DENSE, make_params, make_tables


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results(make_tables(tmp_path_factory.mktemp("run")), make_params())


def test_the_dense_head_is_named_as_the_one_that_eliminates_least(results):
    point = operating_point(results, Promise("fer", 0.01))
    rows = spread(point, operating_point(results, Promise("fer", 0.01), oracle=True))
    first = rows.row(0, named=True)
    assert first["where"] == head_name({"layer": DENSE[0], "head": DENSE[1]})
    assert first["worst"] == point["elimination"].min() < first["mean"]


def test_an_operating_point_has_each_head_once(results):
    point = operating_point(results, Promise("dropped_mass", 0.05))
    assert point.height == point.select("layer", "head").n_unique() == results.heads


def test_a_pooled_curve_weighs_queries_alike_and_leaves_threshold_texts_out(results):
    curve = pooled_curve(results, results.is_headline, ["codec"])
    rows = pl.read_parquet(results.path("frontier.sweep")).filter(
        results.is_headline, pl.col("role") == "held_out"
    )
    for theta, elimination in curve.select("theta", "elimination").iter_rows():
        at = rows.filter(pl.col("theta") == theta)
        assert elimination == pytest.approx((at["elimination"] * at["queries"]).sum() / at["queries"].sum())


@pytest.mark.parametrize(
    ("fer", "says"),
    [(0.001, "**This run cannot tell"), (0.05, "**Not with this design: no threshold of the grid")],
)
def test_without_a_threshold_a_run_says_whether_its_queries_or_its_grid_are_to_blame(tmp_path, fer, says):
    tables, params = make_tables(tmp_path), make_params()
    for name in ("safe_points", "layer_head"):
        frame = pl.read_parquet(tables[f"frontier_{name}"]).with_columns(theta=pl.lit(None, pl.Float32))
        write_table(frame, tables[f"frontier_{name}"], SCHEMAS["frontier"][name])
    params.config["frontier"]["safe"]["fer"] = fer
    first, more = (block.text for block in answer.build(Results(tables, params)) if isinstance(block, Prose))
    assert first.removeprefix("- ").startswith(says)
    assert "96 threshold queries a head can promise no loss below 1.0 %" in more
