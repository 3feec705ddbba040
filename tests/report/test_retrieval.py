"""The chapter on retrieval: measurable tasks only, losses named, a headline chosen by bytes."""

import polars as pl
import pytest

from ghostkv.files.io import write_table
from ghostkv.files.tables import table_of
from ghostkv.report.document import Figure, Prose, Table
from ghostkv.report.numbers import percent
from ghostkv.report.results import Results
from ghostkv.report.sections.retrieval import CHAPTER, _reading
from ghostkv.stages.retrieval.tables import (
    ANSWER_SCHEMA,
    CELL_SCHEMA,
    SUMMARY_SCHEMA,
    cells,
    summarise,
)
from tests.report.fixtures import headline, make_params

# Label -> kind, bytes ratio, and whether it fails the deepest needle.
POLICIES = {
    "dense": ("dense", 1.0, False),
    "ghost_010": ("ours", 0.1, True),
    "ghost_020": ("ours", 0.2, False),
    "ghost_090": ("ours", 0.9, False),
    "quest": ("peer", 0.2, True),
}


def answer_rows(measurable=True):
    rows = []
    for task, length, depths in (
        ("niah_single_2", 1024, (0.1, 0.9)),
        ("niah_single_2", 2048, (0.1, 0.9)),
        ("vt", 1024, (None,)),
    ):
        for context in range(3):
            for question, depth in enumerate(depths):
                for policy, (kind, ratio, fails) in POLICIES.items():
                    wrong = task == "vt" or not measurable or (fails and depth == 0.1 and context == 0)
                    rows.append(
                        {
                            "task": task, "length": length, "context_number": context, "question_number": question,
                            "depth": depth, "tokens": length - 20, "policy": policy, "kind": kind, "certificate": "none",
                            "prefill": "dense", "score": 0.4 * (task == "vt") if wrong else 1.0, "answer": " 1.",
                            "references": ["1"], "answer_tokens": 2, "forwards": 1, "bytes_read": 100 * ratio,
                            "bytes_full": 100.0, "head_bytes_read": 80 * ratio, "head_bytes_full": 100.0,
                        }
                    )  # fmt: skip
    return table_of(rows, ANSWER_SCHEMA)


def results_of(folder, measurable=True):
    answers = pl.from_arrow(answer_rows(measurable))
    folder.mkdir(exist_ok=True)
    paths = {}
    for name, rows, schema in (
        ("cells", cells(answers, 0.8), CELL_SCHEMA), ("summary", summarise(answers, 0.8), SUMMARY_SCHEMA),
    ):  # fmt: skip
        paths[f"retrieval_{name}"] = str(folder / f"{name}.parquet")
        write_table(table_of(rows, schema), paths[f"retrieval_{name}"], schema)
    params = make_params()
    params["config"] = params["config"] | {"retrieval": {"measurable": 0.8}}
    return Results(paths, params)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return results_of(tmp_path_factory.mktemp("retrieval"))


def test_a_heat_map_and_two_tables_whose_columns_exist(results):
    blocks = [block for block in CHAPTER.build(results) if isinstance(block, Figure | Table)]
    assert [block.name for block in blocks] == ["retrieval_depths", "retrieval_tasks", "retrieval_dense"]
    for block in blocks[1:]:
        assert block.data.height > 0
        assert set(block.columns) <= set(block.data.columns), block.name
    blocks[0].chart.to_dict()


def test_what_is_not_measurable_stands_with_the_dense_model_alone(results):
    _, _, tasks, dense, _ = CHAPTER.build(results)
    assert "vt" not in set(tasks.data["task"])
    assert dict(dense.data.select("task", "measurable").iter_rows())["vt"] is False


def test_the_headline_takes_the_most_bytes_within_the_budget_and_not_the_best_answers(results):
    found = headline(results, [CHAPTER])
    assert found["retrieval.single_needle_at_025.bytes_ratio_gqa"]["value"] == pytest.approx(0.2)
    figure = found["retrieval.single_needle_at_025.relative_accuracy"]
    assert (figure["value"], figure["n"]) == (1.0, 12)
    assert found["retrieval.measurable_tasks"]["value"] == 2


def summary_of(folder, *lines):
    """Results with single needles of (policy, kind, bytes ratio, n, right)."""
    results = results_of(folder)
    pooled = {
        "task": "single_needle",
        "length": 0,
        "certificate": "none",
        "prefill": "dense",
        "measurable": True,
    }
    rows = [
        pooled
        | {
            "policy": policy,
            "kind": kind,
            "bytes_ratio_gqa": ratio,
            "n": n,
            "right": right,
            "accuracy": right / n,
        }
        | {
            "relative_accuracy": right / n,
            "relative_low": 0.5,
            "relative_high": 1.0,
            "dense_accuracy": 1.0,
            "lost": 0,
        }
        for policy, kind, ratio, n, right in lines
    ]
    path = folder / "summary.parquet"
    write_table(table_of(rows, SUMMARY_SCHEMA), str(path), SUMMARY_SCHEMA)
    return Results(
        {"retrieval_summary": str(path), "retrieval_cells": str(folder / "cells.parquet")}, results.params
    )


SIZED = ("ghost_019", "ours", 0.24, 50, 48)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        # A task more does not make a cheaper policy the one that the budget was sized for, however well it answers.
        ([("ghost_015", "ours", 0.19, 55, 55)], 0.96),
        # A slow policy that was asked a few questions is not quoted, though it has more bytes.
        ([("mass_5pct", "ours", 0.249, 5, 5)], 0.96),
        ([("mass_5pct", "ours", 0.249, 49, 49)], 0.96),
        ([("ghost_022", "ours", 0.26, 60, 60), ("quest", "peer", 0.25, 60, 60)], 0.96),
        ([("ghost_020", "ours", 0.245, 50, 40)], 0.8),
    ],
)
def test_the_headline_is_about_the_policy_sized_for_the_budget(tmp_path, others, expected):
    for lines in ([SIZED, *others], [*others, SIZED]):
        results = summary_of(tmp_path / "found", *lines)
        figure = headline(results, [CHAPTER])["retrieval.single_needle_at_025.relative_accuracy"]
        assert (figure["value"], figure["n"]) == (pytest.approx(expected), 50)
        # The chapter quotes the same policy.
        assert f"relative accuracy {percent(expected)}" in _reading(results)


def test_with_few_questions_the_policy_that_answered_most_is_quoted(tmp_path):
    lines = [("ghost_015", "ours", 0.19, 12, 12), ("mass_5pct", "ours", 0.24, 4, 2)]
    figure = headline(summary_of(tmp_path / "few", *lines), [CHAPTER])
    assert figure["retrieval.single_needle_at_025.relative_accuracy"]["n"] == 12


def test_losses_are_named(results):
    text = "\n".join(block.text for block in CHAPTER.build(results) if isinstance(block, Prose))
    assert "ghost_010 loses 1 of 6 questions of niah_single_2 at 1,024 tokens" in text
    assert "Not measurable with this model: vt at 1,024" in text


def test_nothing_measurable_claims_nothing(tmp_path):
    bare = results_of(tmp_path / "bare", measurable=False)
    found = headline(bare, [CHAPTER])
    assert found["retrieval.single_needle_at_025.relative_accuracy"]["value"] is None
    text = "\n".join(block.text for block in CHAPTER.build(bare) if isinstance(block, Prose))
    assert "none is measurable" in text
