"""What `retrieval` derives from all answers: accuracies with their intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import polars as pl

from ghostkv.elimination.intervals import clustered, mcnemar, relative_interval, wilson
from ghostkv.stages.retrieval.schemas import DENSE, WHO

# All single needles of prompts up to this length, pooled: what the headline is about.
POOLED, POOLED_LENGTH = "single_needle", 4096
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
        row["clustered_low"], row["clustered_high"] = clustered(*_by_context(mine, mine))
        row["contexts"] = len(set(map(_context, mine)))
        if measurable and row["policy"] != DENSE:
            row |= _paired(mine, theirs, row)
        rows.append(row)
    return rows


def _paired(mine: dict, theirs: dict, row: dict) -> dict:
    """The policy against the dense model on the same questions."""
    kept = _by_context(mine, [key for key in mine if theirs[key] >= _FULL])
    gained = _by_context(mine, [key for key in mine if theirs[key] < _FULL])
    lost, won = ([of - right for right, of in zip(*kept, strict=True)], gained[0])
    # Questions on one context are no independent tosses, but contexts are.
    worse = sum(less > more for less, more in zip(lost, won, strict=True))
    better = sum(less < more for less, more in zip(lost, won, strict=True))
    found = {"lost": sum(lost), "won": sum(won), "mcnemar_p": mcnemar(worse, better)}
    if row["dense_accuracy"] > 0:
        found["relative_accuracy"] = row["accuracy"] / row["dense_accuracy"]
    # An interval counts questions; with partial scores accuracy is no count.
    if sum(kept[1]) and all(score in (0.0, 1.0) for score in (*mine.values(), *theirs.values())):
        found["relative_low"], found["relative_high"] = relative_interval(kept, gained)
    return found


def _by_context(mine: dict, asked: Collection[tuple]) -> tuple[list[int], list[int]]:
    """Full scores, and questions, on each context, of the questions `asked` alone; contexts in the order of all questions."""
    right = dict.fromkeys(map(_context, mine), 0)
    of = dict(right)
    for key in asked:
        right[_context(key)] += mine[key] >= _FULL
        of[_context(key)] += 1
    return list(right.values()), list(of.values())


def _context(key: tuple) -> tuple:
    """The haystack of a question: its task, length and number."""
    return key[:3]


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
    return {name: own[name][0] for name, _ in WHO}


def _measurable(answers: pl.DataFrame, least: float) -> dict[tuple[str, int], bool]:
    dense = answers.filter(pl.col("policy") == DENSE).group_by("task", "length")
    lost = dense.agg((1 - pl.col("score")).sum(), pl.len()).iter_rows()
    return {(task, length): may_measure(failed, questions, least) for task, length, failed, questions in lost}
