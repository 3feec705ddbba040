"""The chapter on speed: words follow the table, headline figures are those of two threads."""

import polars as pl
import pytest

from ghostkv.files.io import write_table
from ghostkv.report.document import Prose, Table
from ghostkv.report.results import Results
from ghostkv.report.schemas import SCHEMAS
from ghostkv.report.sections.speed import CHAPTER
from tests.report.fixtures import headline, make_params

SCHEMA = SCHEMAS["speed"]["layers"]


def results_of(folder, **changes):
    numbers = dict.fromkeys(
        [name for name in SCHEMA.names if pl.from_arrow(SCHEMA.empty_table())[name].dtype.is_numeric()], 1.0
    )
    rows = [
        numbers | {"shape": "large", "source": "generated", "headline": True, "tokens": tokens, "threads": threads}
        | {"survivors_equal": True, "ratio": tokens / 4096 * threads, "output_error": 0.02, "scan_limit_share": 0.6} | changes
        for tokens in (4096, 32768, 131072)
        for threads in (1, 2)
    ]  # fmt: skip
    path = str(folder / "layers.parquet")
    table = pl.DataFrame(rows).select(SCHEMA.names).cast(dict(pl.from_arrow(SCHEMA.empty_table()).schema))
    write_table(table, path, SCHEMA, {})
    return Results({"speed_layers": path}, make_params(layers=[0]))


def test_headline_figures_are_those_of_two_threads(tmp_path):
    found = headline(results_of(tmp_path), [CHAPTER])
    values = {name.removeprefix("speed."): figure["value"] for name, figure in found.items()}
    assert values == pytest.approx(
        {"layer_4k": 2, "layer_32k": 16, "layer_128k": 64, "output_error_32k": 0.02, "scan_limit_share": 0.6}
    )


def test_tables_hold_every_column_that_they_print(tmp_path):
    blocks = [block for block in CHAPTER.build(results_of(tmp_path)) if isinstance(block, Table)]
    for block in blocks:
        assert block.data.height == 6
        assert set(block.columns) <= set(block.data.columns)


def stepped(folder):
    """With whole steps of two models' names at two contexts, in two types."""
    schema = SCHEMAS["speed"]["steps"]
    empty = pl.from_arrow(schema.empty_table())
    numbers = {name: 1.0 for name in schema.names if empty[name].dtype.is_numeric()}
    about = {"model": "smollm2-135m-instruct", "text": "essays_trace_0"}
    rows = [
        numbers | about | {"tokens": tokens, "dtype": dtype, "grouped_seconds": None, "own_ratio": 2.0, "ratio": tokens / 4096}
        for tokens in (4096, 8192)
        for dtype in ("float32", "bfloat16")
    ]  # fmt: skip
    path = str(folder / "steps.parquet")
    write_table(pl.DataFrame(rows).select(schema.names).cast(dict(empty.schema)), path, schema, {})
    results_of(folder)
    paths = {"speed_layers": str(folder / "layers.parquet"), "speed_steps": path}
    return Results(paths, make_params(layers=[0]))


def test_whole_steps_are_told_of_the_longest_context_and_of_the_model_of_the_run(tmp_path):
    results = stepped(tmp_path)
    found = {name: (one["value"], one["n"]) for name, one in headline(results, [CHAPTER]).items()}
    assert found["speed.step_smollm2_8k"] == (2.0, 2)
    assert found["speed.step_gemma_32k"] == (None, 0)
    blocks = {block.name: block for block in CHAPTER.build(results) if not isinstance(block, Prose)}
    # A way that was not timed has no bar.
    assert set(blocks["speed_steps"].data["way"]) == {
        "model as it comes",
        "under elimination",
        "without context",
    }
    assert blocks["speed_whole_steps"].data.height == 4
    said = [block.text for block in CHAPTER.build(results) if isinstance(block, Prose)][1]
    assert "At 8,192 tokens" in said
    assert "2.00x as long as the fastest under elimination" in said


@pytest.mark.parametrize(("equal", "loud"), [(True, False), (False, True)])
def test_survivors_that_differ_are_loud(tmp_path, equal, loud):
    blocks = CHAPTER.build(results_of(tmp_path, survivors_equal=equal))
    text = next(block.text for block in blocks if isinstance(block, Prose))
    assert ("differ from those of float64 in 6 of 6 rows" in text) == loud


def test_figures_of_contexts_that_were_not_timed_have_no_value(tmp_path):
    found = headline(results_of(tmp_path, tokens=512), [CHAPTER])
    assert {(figure["value"], figure["n"]) for figure in found.values()} == {(None, 0)}
