"""The chapter on generated tensors: verdicts follow the tables, misses are called misses."""

import polars as pl
import pytest

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.figures import write_figure
from ghostkv.report.results import Results
from ghostkv.report.schemas import SCHEMAS
from ghostkv.report.sections.synthetic.section import CHAPTER
from tests.report.fixtures import headline, make_params
from tests.stages.synthetic.test_stage import CONFIG, run


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return run(tmp_path_factory.mktemp("synthetic"))


def results_of(outputs, **other):
    paths = {f"synthetic_{name}": path for name, path in (outputs | other).items()}
    return Results(paths, make_params(config=CONFIG.plain(), layers=[0]))


def changed(outputs, folder, name, expression):
    """The path of a copy of a table with columns changed."""
    path = str(folder / f"{name}.parquet")
    table = read_table(outputs[name]).with_columns(expression)
    write_table(table, path, SCHEMAS["synthetic"][name], read_metadata(outputs[name]))
    return {name: path}


def prose(results):
    return "\n".join(block.text for block in CHAPTER.build(results) if isinstance(block, Prose))


def test_figures_and_tables_hold_rows_and_every_column_that_they_print(outputs, tmp_path):
    blocks = [block for block in CHAPTER.build(results_of(outputs)) if not isinstance(block, Prose)]
    assert [block.name for block in blocks] == [
        "synthetic_overlap", "synthetic_deviation", "synthetic_deviations", "synthetic_tradeoff",
        "synthetic_points", "synthetic_bytes", "synthetic_decode", "synthetic_decode_table", "synthetic_needles",
    ]  # fmt: skip
    for block in blocks:
        assert block.data.height > 0, block.name
        if isinstance(block, Table):
            assert set(block.columns) <= set(block.data.columns), block.name
        else:
            assert write_figure(block, tmp_path, 1.0)


def test_the_expectation_stands_beside_the_measurement(outputs):
    figure = next(b for b in CHAPTER.build(results_of(outputs)) if isinstance(b, Figure))
    known = figure.data.filter(pl.col("generator") == "gaussian", pl.col("codec") == "gaussian")
    assert known["expected"].null_count() == 0
    assert (known["low"] < known["mean"]).all()
    assert figure.data.filter(pl.col("generator") == "needles")["expected"].null_count() > 0


def test_a_deviation_beyond_the_limit_is_loud(outputs, tmp_path):
    assert "and all keep to it" in prose(results_of(outputs))
    broken = changed(outputs, tmp_path, "checks", pl.col("sigma") + 9)
    text = prose(results_of(outputs, **broken))
    assert "**and it is passed**" in text


def test_the_words_state_how_many_planted_keys_were_found(outputs, tmp_path):
    kept = changed(outputs, tmp_path, "decode", (pl.col("needle_found") * 0 + 1).alias("needle_found"))
    assert "In the decode, 100.00 % of the heads" in prose(results_of(outputs, **kept))


def test_headline_is_computed_from_the_tables(outputs):
    results = results_of(outputs)
    found = headline(results, [CHAPTER])
    checks, decode = results.table("synthetic.checks"), results.table("synthetic.decode")
    exact = checks.filter(pl.col("kind") == "exact")
    assert found["synthetic.worst_deviation_sigma"]["value"] == pytest.approx(exact["sigma"].max())
    assert found["synthetic.worst_deviation_sigma"]["n"] == exact.height
    assert found["synthetic.deviation_limit_sigma"]["value"] == pytest.approx(exact["limit"][0])
    assert found["synthetic.violations"]["value"] == 0
    assert found["synthetic.needle_recall"]["value"] == pytest.approx(decode["needle_found"].mean())
    assert found["synthetic.needle_recall"]["n"] == decode["needle_found"].count()
    assert found["synthetic.decode_steps"]["value"] == 600
