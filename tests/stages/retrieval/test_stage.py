"""Stage retrieval: what is not measurable is in no mean, pairs are paired, questions come out of a plan."""

from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
from pydantic import ValidationError

from ghostkv.config.experiment import load_config
from ghostkv.config.retrieval import Retrieval
from ghostkv.files.errors import ConfigError
from ghostkv.files.io import read_table, write_table
from ghostkv.files.tables import table_of
from ghostkv.stages.relations import check_stage
from ghostkv.stages.retrieval.jobs import RetrievalPlan, RetrievalTask, question_files
from ghostkv.stages.retrieval.schemas import DENSE, SAMPLE_SCHEMA, THETA_SCHEMA
from ghostkv.stages.retrieval.tables import cells, may_measure, summarise
from ghostkv.stages.retrieval.task import answer
from ghostkv.stages.run import Run
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
    with pytest.raises(ConfigError, match="not vt_512 twice"):
        load_config({"retrieval": {"tasks": [entry, entry]}})
    with pytest.raises(ConfigError, match="dense always answers"):
        Retrieval(policies=[{"label": "dense", "policy": "identity"}])


class Scripted:
    """An examinee whose dense answers have the scores of a script, of ten references each."""

    scores = ()

    def __init__(self, *_):
        pass

    def answers(self, sample, worth):
        dense = self.scores[sample["context_number"]]
        found = [(DENSE, dense), ("ghost", 1.0)]
        return [
            (
                {"policy": who, "kind": "ours", "certificate": "none", "prefill": "dense"},
                {"tokens": 9, "answer": "".join(sample["references"][: round(10 * score)]), "answer_tokens": 1, "forwards": 1}
                | {f"{head}bytes_{kind}": 1.0 for head in ("", "head_") for kind in ("read", "full")},
            )
            for who, score in (found if worth(dense) else found[:1])
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "least", "expected"),
    [
        # Measurable at 0.933, though a tenth of three questions is no whole question.
        ((0.8, 1.0, 1.0), 0.9, [2, 2, 2]),
        ((1.0, 1.0, 0.7), 0.9, [2, 2, 2]),
        # Exactly at the limit.
        ((0.7, 0.7, 1.0), 0.8, [2, 2, 2]),
        ((0.5, 0.9, 1.0), 0.8, [2, 2, 2]),
        # Hopeless from the second question on, and so are the others.
        ((0.5, 0.8, 1.0), 0.8, [2, 1, 1]),
        ((0.0, 1.0, 1.0), 0.8, [1, 1, 1]),
    ],
)
def test_policies_answer_as_long_as_a_task_may_be_measurable(tmp_path, monkeypatch, scores, least, expected):
    monkeypatch.setattr("ghostkv.stages.retrieval.examinee.Examinee", Scripted)
    monkeypatch.setattr(Scripted, "scores", scores)
    sample = {
        "job": "vt_512",
        "task": "vt",
        "length": 512,
        "question_number": 0,
        "context": "",
        "question": "",
    }
    sample |= {"answer_start": "", "draft": "", "references": list("abcdefghij"), "rule": "all", "limit": 9}
    paths = {name: str(tmp_path / f"{name}.parquet") for name in ("samples", "thetas", "answers")}
    rows = [sample | {"context_number": number} for number in range(len(scores))]
    write_table(table_of(rows, SAMPLE_SCHEMA), paths["samples"], SAMPLE_SCHEMA, {})
    write_table(table_of([], THETA_SCHEMA), paths["thetas"], THETA_SCHEMA, {})
    answer(SimpleNamespace(name="vt_512", measurable=least, code=""), paths, {"answers": paths["answers"]})
    found = read_table(paths["answers"])
    assert found.group_by("context_number").len().sort("context_number")["len"].to_list() == expected
    # Who answered to the end is whom the summary measures.
    measured = row(summarise(found, least), task="vt", policy=DENSE)["measurable"]
    assert measured == (expected[-1] == 2)


def test_a_task_may_measure_until_too_much_is_lost():
    assert may_measure(0.6, 3, 0.8)
    assert not may_measure(0.61, 3, 0.8)
    # What 1 - 0.9 leaves over in binary is no question.
    assert may_measure(1.0, 10, 0.9)


def test_needles_may_stand_first_and_last():
    assert Retrieval(depths=[0.0, 1.0]).depths == [0.0, 1.0]
    for depth in (-0.1, 1.1):
        with pytest.raises(ValidationError, match="depths"):
            Retrieval(depths=[depth])


def test_a_task_that_the_model_cannot_hold_is_refused():
    section = Retrieval(tasks=[{"task": "vt", "length": 512}, {"task": "cwe", "length": 2048}])
    section.check_lengths(2048, "mine")
    section.check_lengths(None, "mine")
    with pytest.raises(ConfigError, match="cwe at 2048.*mine takes at most 1024.*\n.*length: 1024"):
        section.check_lengths(1024, "mine")


def test_a_task_depends_on_who_answers_it_and_takes_what_the_frontier_keeps():
    run = Run.resolve({"frontier": {"sinks": 2, "hot": 16}, "retrieval": {"prefill": "sparse"}}, "resources")
    asked = {name: RetrievalTask.of(run, job=name) for name in run.config.retrieval.jobs()}
    labels = {name: [one.policy.label for one in job.policies] for name, job in asked.items()}
    assert labels["vt_1024"] == ["ghost_015", "quest_020"]
    assert "snapkv_015" in labels["niah_single_2_1024"]
    assert "snapkv_015" not in labels["niah_single_2_2048"]
    job = asked["niah_single_2_1024"]
    assert {one.policy.label: one.contexts for one in job.policies}["mass_5pct"] == 1
    assert {one.kind for one in job.policies} == {"ours", "peer", "oracle"}
    for policy in (job.dense, *[one.policy for one in job.policies]):
        assert (policy.sinks, policy.hot, policy.prefill) == (2, 16, "sparse")
    assert [policy.hot for policy in RetrievalPlan.of(run).policies] == [16, 16]
    for job in (RetrievalPlan.of(run), asked["vt_1024"]):
        params = job.params()
        params.pop("job")
        assert replace(type(job).read(params), code="") == job


def test_tasks_too_long_for_the_model_are_refused_where_questions_are_asked_for():
    tasks = [{"task": "vt", "length": 10**6}]
    run = Run.resolve({"retrieval": {"tasks": tasks}}, "resources")
    with pytest.raises(ConfigError, match="vt at 1000000"):
        check_stage(run, "retrieval")
    own = Run.resolve({"retrieval": {"data": "tests/config/ruler"}}, "resources")
    assert "tests/config/ruler/PaulGrahamEssays.json" in question_files(own)


def test_whom_the_headline_is_about_answers_every_single_needle():
    default = Retrieval()
    asked = {entry.task for entry in default.tasks if entry.task.startswith("niah_single")}
    (sized,) = [entry for entry in default.policies if entry.label == "ghost_019"]
    assert asked <= set(sized.tasks)
    assert sized.lengths is sized.contexts is None


def test_the_default_asks_fifty_single_needles_up_to_4k():
    default = Retrieval()
    asked = sum(
        entry.contexts * len(default.depths)
        for entry in default.tasks
        if entry.task.startswith("niah_single") and entry.length <= 4096
    )
    assert asked >= 50
