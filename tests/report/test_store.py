"""The chapter on the store: words follow the tables, a loss is loud."""

import polars as pl
import pytest

from ghostkv.files.io import read_metadata, read_table, write_table
from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.figures import write_figure
from ghostkv.report.results import Results
from ghostkv.report.schemas import SCHEMAS
from ghostkv.report.sections.store.section import CHAPTER
from tests.report.fixtures import headline, make_params
from tests.stages.store.test_stage import CONFIG, run


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return run(tmp_path_factory.mktemp("store"))


def results_of(outputs, **other):
    paths = {f"store_{name}": path for name, path in (outputs | other).items()}
    return Results(paths, make_params(config=CONFIG.plain(), layers=[0]))


def changed(outputs, folder, name, *expressions):
    """The path of a copy of a table with columns changed."""
    path = str(folder / f"{name}.parquet")
    table = read_table(outputs[name]).with_columns(*expressions)
    write_table(table, path, SCHEMAS["store"][name], read_metadata(outputs[name]))
    return {name: path}


def prose(results):
    return next(block.text for block in CHAPTER.build(results) if isinstance(block, Prose))


def test_figures_and_tables_hold_rows_and_every_column_that_they_print(outputs, tmp_path):
    blocks = [block for block in CHAPTER.build(results_of(outputs)) if not isinstance(block, Prose)]
    names = ["store_kills", "store_damage", "store_gather", "store_gather_table", "store_appends"]
    assert [block.name for block in blocks] == names
    for block in blocks:
        assert block.data.height > 0, block.name
        if isinstance(block, Table):
            assert set(block.columns) <= set(block.data.columns), block.name
        else:
            assert write_figure(block, tmp_path, 1.0)


def test_every_kill_is_a_dot_and_every_damage_is_counted(outputs):
    results = results_of(outputs)
    blocks = {
        (type(block), block.name): block for block in CHAPTER.build(results) if not isinstance(block, Prose)
    }
    assert blocks[Figure, "store_kills"].data.height == results.table("store.kills").height
    damage = blocks[Table, "store_damage"].data
    assert damage["n"].sum() == results.table("store.corruptions").height
    outcomes = damage.select(pl.sum_horizontal("at_open", "at_read", "harmless", "silent")).to_series()
    assert (outcomes == damage["n"]).all()
    assert (damage["complete"] == damage["at_open"] + damage["at_read"]).all()


def test_headline_is_computed_from_the_tables(outputs):
    results = results_of(outputs)
    found = headline(results, [CHAPTER])
    assert (found["store.kill_points_survived"]["value"], found["store.kill_points_survived"]["n"]) == (6, 6)
    assert found["store.kills_not_survived"]["n"] == 8
    for name in (
        "kills_not_survived",
        "acknowledged_records_lost",
        "silent_corruptions",
        "unhelpful_refusals",
    ):
        assert found[f"store.{name}"]["value"] == 0, name
    ratios = results.table("store.gathers").filter(
        pl.col("method") == "map_verified", pl.col("spread") == "scattered", pl.col("rows") == 64
    )["ratio"]
    assert found["store.gather_time_over_ram"]["value"] == pytest.approx(ratios.median())
    assert "No acknowledged token was lost" in prose(results)


def test_a_lost_token_is_counted_and_said(outputs, tmp_path):
    first = pl.int_range(pl.len()) == 0
    lost = changed(
        outputs, tmp_path, "kills",
        pl.when(first).then(17).otherwise("acknowledged_tokens").alias("acknowledged_tokens").cast(pl.Int64),
        pl.when(first).then(15).otherwise("recovered_tokens").alias("recovered_tokens").cast(pl.Int64),
        (pl.col("survived") & ~first).alias("survived"),
    )  # fmt: skip
    results = results_of(outputs, **lost)
    found = headline(results, [CHAPTER])
    assert found["store.acknowledged_records_lost"]["value"] == 2
    assert found["store.kill_points_survived"]["value"] == 5
    assert "**2 acknowledged tokens were lost.**" in prose(results)
    assert "**1 of 8 kills were not survived.**" in prose(results)
    assert "All 8 were survived" in prose(results_of(outputs))


def test_a_store_that_cannot_be_read_has_lost_all_that_it_acknowledged(outputs, tmp_path):
    kills = read_table(outputs["kills"])
    gone = changed(outputs, tmp_path, "kills", (pl.col("identical") & False).alias("identical"))
    found = headline(results_of(outputs, **gone), [CHAPTER])
    assert found["store.acknowledged_records_lost"]["value"] == kills["acknowledged_tokens"].sum() > 0


def test_silent_damage_is_said(outputs, tmp_path):
    silent = changed(outputs, tmp_path, "corruptions", pl.lit("silent").alias("outcome"))
    results = results_of(outputs, **silent)
    assert "**60 went unnoticed**" in prose(results)
