"""Stage retrieval: what is not measurable is in no mean, pairs are paired, questions come out of a plan."""

import polars as pl
import pytest

from ghostkv.config.retrieval import Retrieval
from ghostkv.errors import ConfigError
from ghostkv.retrieval_tables import cells, summarise
from tests.report.test_retrieval import answer_rows


@pytest.fixture(scope="module")
def answers():
    return pl.from_arrow(answer_rows())


def row(rows, **wanted):
    (found,) = [each for each in rows if all(each[key] == value for key, value in wanted.items())]
    return found


def test_a_policy_is_paired_with_the_dense_model_on_its_own_questions(answers):
    few = answers.filter((pl.col("policy") != "ghost_010") | (pl.col("context_number") == 0))
    found = row(summarise(few, 0.8), task="niah_single_2", length=1024, policy="ghost_010")
    assert (found["n"], found["right"], found["lost"], found["won"]) == (2, 1, 1, 0)
    assert found["relative_accuracy"] == 0.5
    assert found["relative_low"] <= 0.5 <= found["relative_high"]


def test_what_is_not_measurable_is_in_no_pool_and_has_no_relative_accuracy(answers):
    rows = summarise(answers, 0.8)
    assert row(rows, task="single_needle", policy="dense")["n"] == 12
    assert "relative_accuracy" not in row(rows, task="vt", policy="quest")
    worse = answers.with_columns(
        pl.when((pl.col("length") == 2048) & (pl.col("policy") == "dense"))
        .then(pl.lit(0.0))
        .otherwise("score")
        .alias("score")
    )
    assert row(summarise(worse, 0.8), task="single_needle", policy="dense")["n"] == 6


def test_long_prompts_are_in_no_pool(answers):
    long = answers.with_columns(length=pl.lit(8192, pl.Int32), context_number=pl.col("context_number"))
    assert not [each for each in summarise(long, 0.8) if each["task"] == "single_needle"]


def test_a_cell_counts_its_own_depth(answers):
    rows = cells(answers, 0.8)
    shallow = row(rows, length=1024, depth=0.1, policy="ghost_010")
    assert (shallow["right"], shallow["n"], shallow["dense_accuracy"]) == (2, 3, 1.0)
    assert row(rows, length=1024, depth=0.9, policy="ghost_010")["right"] == 3
    assert not [each for each in rows if each["task"] == "vt"]


def test_a_task_or_label_twice_is_refused():
    entry = {"task": "vt", "length": 512}
    with pytest.raises(ConfigError, match="vt at 512"):
        Retrieval(tasks=[entry, entry])
    with pytest.raises(ConfigError, match="dense always answers"):
        Retrieval(policies=[{"label": "dense", "policy": "identity"}])


def test_the_default_asks_fifty_single_needles_up_to_4k():
    default = Retrieval()
    asked = sum(
        entry.contexts * len(default.depths)
        for entry in default.tasks
        if entry.task.startswith("niah_single") and entry.length <= 4096
    )
    assert asked >= 50
