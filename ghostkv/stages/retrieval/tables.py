"""The tables of the stage `retrieval`: samples, answers, and accuracies with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from ghostkv.elimination.intervals import clopper_pearson, mcnemar, relative_interval, wilson

DENSE = "dense"
# What keeps a policy from answering all questions.
LIMITS = ("tasks", "lengths", "contexts")
# All single needles of prompts up to this length, pooled: what the headline is about.
POOLED, POOLED_LENGTH = "single_needle", 4096
SAMPLE_SCHEMA = pa.schema(
    [
        ("job", pa.string()),  # {task}_{length}
        ("task", pa.string()),
        ("length", pa.int32()),
        ("context_number", pa.int16()),
        ("question_number", pa.int16()),
        ("depth", pa.float64()),  # share of the text before the needle; null where there is no single place
        ("context", pa.string()),
        ("question", pa.string()),
        ("answer_start", pa.string()),
        ("draft", pa.string()),
        ("references", pa.list_(pa.string())),
        ("rule", pa.string()),  # all: share of references found; part: any of them
        ("limit", pa.int32()),  # tokens of an answer, RULER's own
    ]
)
THETA_SCHEMA = pa.schema([("label", pa.string()), ("theta", pa.float64())])
_KEYS = [("task", pa.string()), ("length", pa.int32())]
_WHO = [
    ("policy", pa.string()),  # label; "dense" for the model itself
    ("kind", pa.string()),  # dense, ours, peer or oracle
    ("certificate", pa.string()),
    ("prefill", pa.string()),
]
ANSWER_SCHEMA = pa.schema(
    [
        *_KEYS,
        ("context_number", pa.int16()),
        ("question_number", pa.int16()),
        ("depth", pa.float64()),
        ("tokens", pa.int32()),  # of the prompt
        *_WHO,
        ("score", pa.float64()),
        ("answer", pa.string()),
        ("references", pa.list_(pa.string())),
        ("answer_tokens", pa.int32()),
        ("forwards", pa.int32()),
        ("bytes_read", pa.float64()),  # GQA-true, over layers and the queries of question and answer
        ("bytes_full", pa.float64()),
        ("head_bytes_read", pa.float64()),
        ("head_bytes_full", pa.float64()),
    ]
)
_COUNTS = [
    ("n", pa.int32()),
    ("accuracy", pa.float64()),  # mean score
    ("right", pa.int32()),  # questions with the full score
    ("low", pa.float64()),  # 95 % Wilson interval of right / n
    ("high", pa.float64()),
    ("dense_accuracy", pa.float64()),  # on the same questions
    ("measurable", pa.bool_()),  # of the task at this length
    ("bytes_ratio_gqa", pa.float64()),
    ("bytes_ratio", pa.float64()),
]
CELL_SCHEMA = pa.schema([*_KEYS, ("depth", pa.float64()), *_WHO, *_COUNTS])
SUMMARY_SCHEMA = pa.schema(
    [
        *_KEYS,  # length 0: pooled over lengths
        *_WHO,
        *_COUNTS,
        ("contexts", pa.int32()),
        ("exact_low", pa.float64()),  # 95 % Clopper-Pearson interval of right / n
        ("exact_high", pa.float64()),
        ("relative_accuracy", pa.float64()),  # null where not measurable
        ("relative_low", pa.float64()),
        ("relative_high", pa.float64()),
        ("lost", pa.int32()),  # dense right, policy wrong
        ("won", pa.int32()),
        ("mcnemar_p", pa.float64()),
    ]
)
_FULL = 1 - 1e-9


def cells(answers: pl.DataFrame, measurable: float) -> list[dict]:
    """Rows of `CELL_SCHEMA`: one a task, length, depth and policy, where depths are a grid."""
    grid = answers.filter(pl.col("task").str.starts_with("niah_single"))
    known = _measurable(answers, measurable)
    rows = []
    for (task, length, depth), part in grid.group_by("task", "length", "depth", maintain_order=True):
        dense = _right(part.filter(pl.col("policy") == DENSE))
        for who, own in part.group_by("policy", maintain_order=True):
            shared = {key: dense[key] for key in _right(own)}
            rows.append(
                {"task": task, "length": length, "depth": depth}
                | _who(own)
                | _counts(own, list(shared.values()), known[task, length])
                | {"policy": who[0]}
            )
    return rows


def summarise(answers: pl.DataFrame, measurable: float) -> list[dict]:
    """Rows of `SUMMARY_SCHEMA`: one a task, length and policy, and the pooled single needles.

    A task and length that is not measurable is in no pool, and has no relative accuracy.
    """
    known = _measurable(answers, measurable)
    parts = [
        (task, length, part)
        for (task, length), part in answers.group_by("task", "length", maintain_order=True)
    ]
    pooled = [
        part
        for task, length, part in parts
        if task.startswith("niah_single") and length <= POOLED_LENGTH and known[task, length]
    ]
    rows = [row for task, length, part in parts for row in _rows(task, length, part, known[task, length])]
    if pooled:
        rows += _rows(POOLED, 0, pl.concat(pooled), True)
    return rows


def may_measure(failed: float, questions: int, least: float) -> bool:
    """Whether the dense model can still reach `least`, with `failed` points lost on some of the questions."""
    return 1 - failed / questions >= least - 1e-9


def _rows(task: str, length: int, part: pl.DataFrame, measurable: bool) -> list[dict]:
    dense = _right(part.filter(pl.col("policy") == DENSE))
    rows = []
    for _, own in part.group_by("policy", maintain_order=True):
        mine = _right(own)
        theirs = {key: dense[key] for key in mine}
        row = {"task": task, "length": length} | _who(own) | _counts(own, list(theirs.values()), measurable)
        row["exact_low"], row["exact_high"] = clopper_pearson(row["right"], row["n"])
        row["contexts"] = own.select("task", "length", "context_number").n_unique()
        if measurable and row["policy"] != DENSE:
            row |= _paired(mine, theirs, row)
        rows.append(row)
    return rows


def _paired(mine: dict, theirs: dict, row: dict) -> dict:
    """The policy against the dense model on the same questions."""
    both, lost, won, neither = (
        sum((theirs[key] >= _FULL) == dense and (mine[key] >= _FULL) == own for key in mine)
        for dense, own in ((True, True), (True, False), (False, True), (False, False))
    )
    found = {"lost": lost, "won": won, "mcnemar_p": mcnemar(lost, won)}
    if row["dense_accuracy"] > 0:
        found["relative_accuracy"] = row["accuracy"] / row["dense_accuracy"]
    # An interval counts questions; with partial scores accuracy is no count.
    if both + lost and all(score in (0.0, 1.0) for score in (*mine.values(), *theirs.values())):
        found["relative_low"], found["relative_high"] = relative_interval(both, lost, won, neither)
    return found


def _counts(own: pl.DataFrame, dense: Sequence[float], measurable: bool) -> dict:
    right, of = int((own["score"] >= _FULL).sum()), own.height
    low, high = wilson(right, of)
    return {
        "n": of,
        "accuracy": float(own["score"].mean()),
        "right": right,
        "low": low,
        "high": high,
        "dense_accuracy": sum(dense) / len(dense),
        "measurable": measurable,
        "bytes_ratio_gqa": own["bytes_read"].sum() / own["bytes_full"].sum(),
        "bytes_ratio": own["head_bytes_read"].sum() / own["head_bytes_full"].sum(),
    }


def _right(own: pl.DataFrame) -> dict[tuple, float]:
    """Score by question."""
    return {
        key[:-1]: key[-1]
        for key in own.select("task", "length", "context_number", "question_number", "score").iter_rows()
    }


def _who(own: pl.DataFrame) -> dict:
    return {name: own[name][0] for name, _ in _WHO}


def _measurable(answers: pl.DataFrame, least: float) -> dict[tuple[str, int], bool]:
    dense = answers.filter(pl.col("policy") == DENSE).group_by("task", "length")
    lost = dense.agg((1 - pl.col("score")).sum(), pl.len()).iter_rows()
    return {(task, length): may_measure(failed, questions, least) for task, length, failed, questions in lost}
