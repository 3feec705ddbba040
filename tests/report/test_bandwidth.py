"""The chapter on memory tiers: the check comes first, misses are named, models are called models."""

import pytest

from ghostkv.files.io import write_table
from ghostkv.files.tables import table_of
from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.results import Results
from ghostkv.report.sections.bandwidth.section import CHAPTER
from tests.report.bandwidth_fixtures import bandwidth_tables
from tests.report.fixtures import headline, make_params


def write(folder, metadata=None, **options):
    tables = {}
    for name, (rows, schema) in bandwidth_tables(**options).items():
        tables[f"bandwidth_{name}"] = str(folder / f"{name}.parquet")
        write_table(table_of(rows, schema), folder / f"{name}.parquet", schema, metadata or {})
    return Results(tables, make_params())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bandwidth"))


def test_every_column_of_every_table_exists_and_every_figure_has_data(results):
    blocks = CHAPTER.build(results)
    for block in blocks:
        if isinstance(block, Table):
            assert set(block.columns) <= set(block.data.columns), block.name
        if isinstance(block, Figure):
            assert block.data.height
            block.chart.to_dict()
    names = {block.name for block in blocks if isinstance(block, Figure)}
    assert names == {"bandwidth_check", "bandwidth_steps", "bandwidth_maps", "bandwidth_sensitivity"}


def test_headline_has_the_error_of_held_out_times_and_what_crossings_say(results):
    figures = {name: figure["value"] for name, figure in headline(results, [CHAPTER]).items()}
    assert 0 <= figures["bandwidth.time_error_median"] <= figures["bandwidth.time_error_worst"] < 0.05
    assert figures["bandwidth.bytes_error"] == 0
    crossings = results.table("bandwidth.crossings")
    row = crossings.filter(
        (crossings["placement"] == "dram") & (crossings["scenario"] == "constant")
        & (crossings["scheme"] == "nested") & (crossings["against"] == "int4")
        & (crossings["goal"] == "equal output error")
    )  # fmt: skip
    assert figures["bandwidth.int4_speedup_dram"] == pytest.approx(row["speedup"][0])


def test_errors_of_time_and_bytes_are_told_as_they_are(tmp_path):
    found = write(tmp_path, noise=0.6, byte_error=0.03)
    figures = {name: figure["value"] for name, figure in headline(found, [CHAPTER]).items()}
    assert figures["bandwidth.time_error_median"] > 0.15
    assert figures["bandwidth.bytes_error"] == pytest.approx(0.03)
    counts = next(block for block in CHAPTER.build(found) if getattr(block, "name", "") == "bandwidth_counts")
    assert counts.data["error"].max() == pytest.approx(0.03)


def test_speed_ups_stand_beside_what_both_lose(results):
    blocks = {getattr(block, "name", ""): block for block in CHAPTER.build(results)}
    table = blocks["bandwidth_crossings"].data
    equal = table.filter(table["goal"] == "equal output error")
    assert equal.height
    assert (equal["output_error"] <= equal["their_output_error"] * (1 + 1e-9)).all()
    assert table["output_error"].null_count() == table["share"].null_count()
    said = next(
        block.text for block in CHAPTER.build(results) if "At equal loss" in getattr(block, "text", "")
    )
    assert "INT8 loses 1.0 %" in said
    assert "INT4 loses 13.0 %" in said
    losses = blocks["bandwidth_losses"].data
    over = losses.filter(losses["cache"] == "int8", losses["theta"] == -1.0).row(0, named=True)
    # 0.04 of records and a fifth of .53, of a whole cache of .53.
    assert over["own"] == pytest.approx((0.04 + 0.2 * 0.53) / 0.53)


def test_a_model_is_called_a_model(results):
    assert "modelled, not measured" in next(b.text for b in CHAPTER.build(results) if isinstance(b, Prose))
    for block in CHAPTER.build(results):
        if isinstance(block, Figure) and block.name != "bandwidth_check":
            assert block.title.endswith("(model)")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"page_cache_dropped": "false", "o_direct": "true"}, "Disk and store were not measured"),
        ({"page_cache_dropped": "true", "o_direct": "false"}, "Direct reads and the store were not measured"),
        ({"page_cache_dropped": "true", "o_direct": "true"}, None),
        ({}, None),
    ],
)
def test_tiers_that_a_file_system_hides_are_said_to_be_missing(tmp_path, metadata, said):
    texts = [block.text for block in CHAPTER.build(write(tmp_path, metadata)) if isinstance(block, Prose)]
    assert len(texts) == 2 + (said is not None)
    assert said is None or said in texts[1]


def test_prose_names_the_places_that_were_timed_and_no_other(results):
    reading = next(block.text for block in CHAPTER.build(results) if isinstance(block, Prose))
    assert "gathers from memory are timed" in reading
